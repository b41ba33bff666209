"""Evaluation from end to end: lists, finished videos, kills, shards, and what is left out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import portrait, write_clip
from fakes import voiced
from goldens import fill_golden

from lipwire.engine.errors import CheckpointError, ConfigError, LipwireError
from lipwire.engine.face.tracker import MeshTracker
from lipwire.engine.model.bundle import DEFAULT_BUNDLE, Bundle
from lipwire.training.data.framing import paper_boxes
from lipwire.training.evaluation.films import track
from lipwire.training.evaluation.judge import Weights
from lipwire.training.evaluation.lists import Share
from lipwire.training.evaluation.methods import Method, MethodSpec
from lipwire.training.evaluation.run import Plan, evaluate_list, evaluate_videos
from lipwire.training.evaluation.store import read_records
from lipwire.training.evaluation.sync import EvaluationSyncNet
from lipwire.training.evaluation.table import summarise, tables
from lipwire.training.evaluation.table_files import to_markdown

REPO = Path(__file__).resolve().parents[3]
COPY = MethodSpec.parse("copy")
PLAN = Plan("made")


@pytest.fixture(scope="module")
def lite() -> MethodSpec:
    return MethodSpec.parse(f"lite={DEFAULT_BUNDLE}", 1)


def lines(out: Path) -> list[bytes]:
    return [
        line
        for path in sorted(out.glob("results-*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]


def test_reconstruction_beside_its_baselines(
    reconstruction: Path, root: Path, tmp_path: Path, lite: MethodSpec
) -> None:
    silence = MethodSpec.parse(f"silence={DEFAULT_BUNDLE}", 1)
    summary = evaluate_list(
        reconstruction, root, tmp_path / "out", [lite, silence, COPY], PLAN, keep=True
    )
    assert (summary.clips, summary.measured, summary.excluded) == (4, 4, {})
    [result] = summarise([tmp_path / "out"])
    assert (result.setting, result.clips) == ("reconstruction", 4)
    figures = result.methods
    assert figures["copy"]["r"].value == 0.0, "what stands still follows nothing"
    assert figures["copy"]["lmd_px"].value > 0.3, "the real mouth moved"
    assert set(figures["lite"]) == {
        "shape_px",
        "r",
        "lag",
        "lmd_px",
        "psnr_db",
        "ssim",
        "gabor",
        "flicker",
        "frechet_gabor",
    }
    assert 10 < figures["lite"]["psnr_db"].value < figures["copy"]["psnr_db"].value
    assert figures["silence"]["flicker"].value < figures["lite"]["flicker"].value
    kept = tmp_path / "out" / "videos"
    names = {f"clip{'x' * number}.mp4" for number in range(4)}
    assert {folder.name for folder in kept.iterdir()} == {"lite", "silence", "copy"}
    assert all({path.name for path in folder.iterdir()} == names for folder in kept.iterdir())
    # Measured again from the films that it kept, it says nearly the same.
    evaluate_videos(root, [kept / "lite", kept / "copy"], tmp_path / "again", PLAN)
    [again] = summarise([tmp_path / "again"])
    for name in ("psnr_db", "ssim"):
        assert again.methods["lite"][name].value == pytest.approx(
            figures["lite"][name].value, rel=0.05
        )
    # The three clips without a partner are named.
    assert again.excluded == {"missing file": ["broken", "faceless", "mute"]}


def test_the_papers_protocol_paints_every_picture_and_pastes_it_plainly(lite: MethodSpec) -> None:
    images = [portrait(opening) for opening in np.linspace(0, 1, 10)]
    tracker = MeshTracker()
    try:
        faces = track(images, tracker)
    finally:
        tracker.close()
    faces[4] = None
    mel = np.random.default_rng(0).uniform(-4, 4, (80, 60)).astype(np.float32)
    called = Method(lite)
    shown = called.generate(images, faces, mel)
    assert called.refused == sum(np.array_equal(a, b) for a, b in zip(shown, images, strict=True))
    assert called.refused >= 1
    called.close()
    for crop in ("face", "voxceleb2"):
        method = Method(lite, protocol="paper", crop=crop)  # type: ignore[arg-type]
        shown = method.generate(images, faces, mel)
        method.close()
        assert len(shown) == 10 and method.refused == 0
        boxes = paper_boxes(faces, images[0].shape, crop == "voxceleb2")
        for image, found, (x0, y0, x1, y1) in zip(images, shown, boxes, strict=True):
            outside = np.ones(image.shape[:2], bool)
            outside[y0:y1, x0:x1] = False
            assert np.array_equal(found[outside], image[outside])
            middle = (y0 + y1) // 2
            upper, lower = (
                np.abs(found[a:b, x0:x1].astype(int) - image[a:b, x0:x1]).mean()
                for a, b in ((y0, middle - 2), (middle + 2, y1))
            )
            assert upper < 3.5 < lower, "twice resized above, painted below"


def test_the_papers_protocol_is_told_of_in_results_and_table(
    root: Path, tmp_path: Path, lite: MethodSpec
) -> None:
    listed = tmp_path / "cross.txt"
    listed.write_text("clip clipxx\n", encoding="utf-8")
    evaluate_list(listed, root, tmp_path / "call", [lite], PLAN)
    evaluate_list(listed, root, tmp_path / "out", [lite], Plan("made", protocol="paper"))
    (record,) = read_records([tmp_path / "out"]).values()
    assert record["refused"] == {"lite": 0}
    found = to_markdown(tables(summarise([tmp_path / "call", tmp_path / "out"])))
    assert found.count("is not the paper's protocol") == 1
    with pytest.raises(ConfigError, match="protocol"):
        evaluate_list(listed, root, tmp_path / "out", [lite], Plan("made"))


def test_cross_generation_follows_the_other_voice(
    root: Path, tmp_path: Path, lite: MethodSpec
) -> None:
    listed = tmp_path / "cross.txt"
    listed.write_text("clip clipxx\nclipxxx clipx\n", encoding="utf-8")
    evaluate_list(listed, root, tmp_path / "out", [lite, COPY], PLAN)
    [result] = summarise([tmp_path / "out"])
    assert result.setting == "cross" and result.clips == 2
    for figures in result.methods.values():
        assert not {"psnr_db", "ssim"} & figures.keys(), "there are no true pictures"
    assert result.methods["copy"]["flicker"].value == pytest.approx(1.0)
    assert result.methods["copy"]["frechet_gabor"].value == pytest.approx(0, abs=1e-6)
    assert result.methods["copy"]["lmd_px"].value > 0, "it speaks its own words"


def test_sound_alone_may_drive(root: Path, tmp_path: Path, lite: MethodSpec) -> None:
    shutil.copytree(root, tmp_path / "root")
    with wave.open(str(tmp_path / "root" / "voice.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(voiced(1.0).tobytes())
    (tmp_path / "list.txt").write_text("voice clip\n", encoding="utf-8")
    evaluate_list(tmp_path / "list.txt", tmp_path / "root", tmp_path / "out", [lite], PLAN)
    [result] = summarise([tmp_path / "out"])
    assert result.frames > 12
    assert not {"lmd_px", "r"} & result.methods["lite"].keys(), "nobody saw that mouth"
    assert np.isfinite(result.methods["lite"]["flicker"].value)


def test_what_cannot_be_used_is_named_and_left_out_of_all(root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "bad.txt"
    listed.write_text("clip\nfaceless\nmute\nbroken\nnone\n", encoding="utf-8")
    summary = evaluate_list(listed, root, tmp_path / "out", [COPY], PLAN)
    assert summary.measured == 1
    assert summary.excluded == {"no face": 1, "no audio": 1, "unreadable": 1, "missing file": 1}
    [result] = summarise([tmp_path / "out"])
    assert result.excluded == {
        "no face": ["faceless"],
        "no audio": ["mute"],
        "unreadable": ["broken"],
        "missing file": ["none"],
    }
    text = to_markdown(tables([result]))
    for reason in result.excluded:
        assert f"left out of every row, {reason}: 1" in text
    # They stay left out until they are asked for again.
    assert evaluate_list(listed, root, tmp_path / "out", [COPY], PLAN).found == 5
    again = evaluate_list(listed, root, tmp_path / "out", [COPY], PLAN, again=True)
    assert (again.found, sum(again.excluded.values())) == (1, 4)


def test_frames_without_a_face_or_a_partner_count_on_neither_side(
    root: Path, tmp_path: Path
) -> None:
    real, fake = tmp_path / "real", tmp_path / "fake"
    real.mkdir(), fake.mkdir()
    shots = [portrait(0.5 + 0.5 * np.sin(i / 2)) for i in range(30)]
    write_clip(real / "a.mp4", pictures=shots)
    hidden = [np.zeros_like(shot) if 8 <= i < 12 else shot for i, shot in enumerate(shots)]
    write_clip(fake / "a.mp4", pictures=hidden[:26])
    write_clip(real / "b.mp4", pictures=shots)
    write_clip(fake / "b.mp4", pictures=[shot[::2, ::2] for shot in shots[:12]], size=128)
    summary = evaluate_videos(real, [fake], tmp_path / "out", PLAN)
    assert summary.excluded == {"sizes differ": 1}
    record = read_records([tmp_path / "out"])["a"]
    assert record["left_out"]["beyond the shortest film"] == 4
    assert record["left_out"]["no face"] == 30 - 4 - record["frames"] >= 4
    # The fake is the real film but for what is left out, and so are the figures.
    assert record["methods"]["fake"]["psnr_db"] > 35
    assert record["methods"]["fake"]["r"] > 0.99


def test_a_killed_run_goes_on_and_computes_nothing_twice(
    reconstruction: Path, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate = [sys.executable, "-m", "lipwire", "evaluate", "list", reconstruction, root]
    options = ["-m", f"lite={DEFAULT_BUNDLE}", "--steps", "1", "--dataset", "made"]
    command = [*evaluate, "-o", out, *options]
    first = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    give_up = time.monotonic() + 120
    while len(lines(out)) < 2 and first.poll() is None and time.monotonic() < give_up:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    _, complaint = first.communicate()
    kept = lines(out)
    assert len(kept) >= 2, complaint.decode()
    with (out / "results-1-of-1.jsonl").open("ab") as file:
        file.write(b'{"key": "clipxxx", "half a li')  # as a kill while writing leaves it
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"4 clips, {len(kept)} were there already, {4 - len(kept)} measured" in done.stdout
    assert lines(out)[: len(kept)] == kept, "what was there is untouched"
    keys = [json.loads(line)["key"] for line in lines(out)]
    assert sorted(keys) == ["clip", "clipx", "clipxx", "clipxxx"]
    # All is as if nobody had killed anything.
    whole = tmp_path / "whole"
    lite = MethodSpec.parse(f"lite={DEFAULT_BUNDLE}", 1)
    evaluate_list(reconstruction, root, whole, [lite], PLAN)
    assert tables(summarise([out]))[0].rows == tables(summarise([whole]))[0].rows


def test_shards_of_machines_and_processes_merge(
    reconstruction: Path, root: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", [tmp_path / "one", tmp_path / "two"]
    evaluate_list(reconstruction, root, whole, [COPY], PLAN, workers=2)
    for index, part in enumerate(parts, 1):
        summary = evaluate_list(reconstruction, root, part, [COPY], PLAN, share=Share(index, 2))
        assert summary.clips == summary.measured == 2
    [wanted], [found] = summarise([whole]), summarise(parts)
    assert found.clips == 4
    assert {n: f.value for n, f in found.methods["copy"].items()} == pytest.approx(
        {n: f.value for n, f in wanted.methods["copy"].items()}, nan_ok=True
    )
    # In one folder, too; and a whole run on top of shards finds all done.
    evaluate_list(reconstruction, root, parts[0], [COPY], PLAN, share=Share(2, 2))
    assert evaluate_list(reconstruction, root, parts[0], [COPY], PLAN).found == 4


def test_a_folder_is_finished_as_it_was_begun(
    reconstruction: Path, root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate_list(reconstruction, root, out, [COPY], PLAN)
    with pytest.raises(ConfigError, match="was begun with every 5, not 3"):
        evaluate_list(reconstruction, root, out, [COPY], Plan("made", every=3))
    reconstruction.write_text("clip\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="was begun with list"):
        evaluate_list(reconstruction, root, out, [COPY], PLAN)
    with pytest.raises(ConfigError, match="no folder of an evaluation"):
        summarise([tmp_path])


def test_missing_weights_are_said_before_the_work(
    reconstruction: Path, root: Path, tmp_path: Path
) -> None:
    for name, cause in (
        ("syncnet", "no such checkpoint"),
        ("inception", "FID needs"),
        ("face", "identity needs"),
    ):
        weights = Weights(**{name: tmp_path / "none.pt"})
        with pytest.raises(CheckpointError, match=cause):
            evaluate_list(reconstruction, root, tmp_path / "out", [COPY], Plan("m", weights))
    assert not (tmp_path / "out").exists()


def test_all_networks_that_judge_say_their_figures(
    reconstruction: Path, root: Path, tmp_path: Path
) -> None:
    syncnet = EvaluationSyncNet()
    fill_golden(syncnet)
    torch.save(syncnet.state_dict(), tmp_path / "syncnet_v2.model")
    weights = Weights(tmp_path / "syncnet_v2.model", face=face_network(tmp_path / "face.onnx"))
    reconstruction.write_text("clip\n", encoding="utf-8")
    evaluate_list(reconstruction, root, tmp_path / "out", [COPY], Plan("made", weights, 20))
    [result] = summarise([tmp_path / "out"])
    assert result.methods["copy"]["identity"].value == pytest.approx(1.0, abs=0.03)
    assert np.isfinite(result.methods["copy"]["sync_d"].value)
    assert set(result.methods["real"]) == {"sync_c", "sync_d"}, "what SyncNet says of the truth"
    assert "No Sync_c" not in to_markdown(tables([result]))


def face_network(path: Path) -> Path:
    """Answers with the picture's mean of 16 rows and 16 columns."""
    import onnx
    from onnx import TensorProto, helper

    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[28, 28], strides=[28, 28])
    graph = helper.make_graph(
        [pool],
        "faces",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.mark.slow
def test_wav2lip_runs_from_a_checkpoint_of_its_own(
    reconstruction: Path, root: Path, tmp_path: Path, lite: MethodSpec, wav2lip_bundle: Bundle
) -> None:
    reconstruction.write_text("clip\n", encoding="utf-8")
    plan = Plan("made", frames=12)
    wav2lip = MethodSpec.parse(f"Wav2Lip={wav2lip_bundle.path}", 1)
    evaluate_list(reconstruction, root, tmp_path / "out", [wav2lip, lite], plan)
    [result] = summarise([tmp_path / "out"])
    rows = {row[1]: row for row in tables([result])[0].rows}
    assert rows["Wav2Lip"][3] != "–" and rows["Wav2Lip"] != rows["lite"]
    assert "Wav2Lip (published)" in rows
    assert result.methods["Wav2Lip"]["psnr_db"].value < result.methods["lite"]["psnr_db"].value


def test_method_names(tmp_path: Path) -> None:
    for text, cause in (
        (f"real={DEFAULT_BUNDLE}", "is taken"),
        (f"a/b={DEFAULT_BUNDLE}", "letters, digits"),
        (f"x={tmp_path / 'none'}", "no such model bundle"),
    ):
        with pytest.raises(LipwireError, match=cause):
            MethodSpec.parse(text)
    with pytest.raises(LipwireError, match="offers"):
        MethodSpec.parse(f"x={DEFAULT_BUNDLE}", 3)


def test_two_runs_do_not_write_one_shard(reconstruction: Path, root: Path, tmp_path: Path) -> None:
    from lipwire.training.evaluation.store import Store

    settings: dict[str, Any] = {"dataset": "x"}
    with (
        Store(tmp_path / "out", Share(), settings),
        pytest.raises(ConfigError, match="another run"),
    ):
        Store(tmp_path / "out", Share(), settings)
    Store(tmp_path / "out", Share(), settings).__exit__()
    shutil.rmtree(tmp_path / "out")
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(ConfigError, match="cannot be made"):
            Store(tmp_path / "out", Share(), settings)
        tmp_path.chmod(0o700)


def test_a_damaged_line_is_named(reconstruction: Path, root: Path, tmp_path: Path) -> None:
    evaluate_list(reconstruction, root, tmp_path / "out", [COPY], PLAN)
    path = tmp_path / "out" / "results-1-of-1.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([whole[0], b"\x00\x00\n", *whole[2:]]))
    with pytest.raises(ConfigError, match="line 2: is damaged"):
        summarise([tmp_path / "out"])
    path.write_bytes(b"".join([whole[0], *whole[2:]]))
    assert evaluate_list(reconstruction, root, tmp_path / "out", [COPY], PLAN).measured == 1
    (tmp_path / "out" / "features" / "clip.npz").unlink()
    with pytest.raises(ConfigError, match="clip.npz: cannot be read"):
        summarise([tmp_path / "out"])
