"""Banks of mouths to a running call and out of it: whose, with which consent, and what is said."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from calls import Caller, Camera, Running, StripedBackend, until
from fakes import make_manifest
from mouths import CENTRE, SHUT, STATS, Listener, MouthTracker, enrolled, mouth, speaking

from lipwire.engine import Engine, read_bank, write_bank
from lipwire.engine.types import U8, Face
from lipwire.server.api import guard
from lipwire.server.api.auth import Right, make_jwt

KEY = "a passphrase of some length"
AGREED = {"consent": "true"}


class StillTracker(MouthTracker):
    """Implements `lipwire.engine.face.tracker.FaceTracker`: a shut mouth, whatever a codec does."""

    def track(self, image: U8) -> Face | None:
        """It is always there."""
        return Face(mouth(SHUT), 1.0)


@pytest.fixture
def engine() -> Iterator[Engine]:
    backend = StripedBackend()
    codes = {"mean": list(STATS.mean), "spread": list(STATS.spread)}
    backend.manifest = make_manifest(reach_px=5.0, codes=codes)
    with Engine(backend, StillTracker, articulation=Listener()) as made:
        yield made


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with Caller(Camera(speaking(SHUT).copy())) as made:
        yield made


async def begin(client: httpx.AsyncClient, caller: Caller) -> str:
    """A call that shows pictures; its path."""
    answer = await client.post("/api/sessions", json={"sdp": await caller.offer(), "consent": True})
    await caller.accept(answer.json()["sdp"])
    await until(lambda: bool(caller.pictures), "a picture comes back")
    return f"/api/sessions/{answer.json()['id']}/bank"


def told(caller: Caller) -> list[str]:
    """What the data channel has said of the bank."""
    events = [json.loads(message) for message in caller.messages]
    return [event["enrolled"] for event in events if event["type"] == "bank"]


async def test_a_bank_is_used_and_taken_out_again(
    client: httpx.AsyncClient, caller: Caller
) -> None:
    path = await begin(client, caller)
    early = await client.get(path, params=AGREED)
    assert early.status_code == 409 and "too few" in early.json()["error"]
    answer = await client.post(path, params=AGREED, content=write_bank(enrolled()))
    assert answer.status_code == 202
    assert answer.json() == {"units": len(enrolled().units), "enrolled": "waiting"}
    await until(lambda: "used" in told(caller), "the face is known")
    taken = await client.get(path, params=AGREED | {"person": "Me", "statement": "mine"})
    assert taken.status_code == 200 and taken.headers["cache-control"] == "no-store"
    bank = read_bank(taken.content)
    assert (bank.consent.person, bank.consent.statement) == ("Me", "mine")
    assert len(bank.units) > len(enrolled().units)


async def test_another_person_s_bank_is_refused_and_said(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    image = speaking(SHUT).copy()
    x, y = (round(v) for v in CENTRE)
    image[y - 34 : y - 14, x - 46 : x + 46] = 20  # dark glasses
    async with Caller(Camera(np.ascontiguousarray(image))) as stranger:
        path = await begin(client, stranger)
        with caplog.at_level(logging.WARNING):
            answer = await client.post(path, params=AGREED, content=write_bank(enrolled()))
            assert answer.status_code == 202
            await until(lambda: "refused" in told(stranger), "the face is told apart")
        [line] = [r.getMessage() for r in caplog.records if "bank" in r.getMessage()]
        assert "another person" in line
        shown = len(stranger.pictures)
        await until(lambda: len(stranger.pictures) > shown, "the call goes on")


@pytest.mark.parametrize(
    ("content", "params", "status", "cause"),
    [
        (write_bank(enrolled()), {}, 403, "agreed"),
        (write_bank(enrolled())[:-1], AGREED, 422, "truncated"),
        (write_bank(enrolled(), KEY), AGREED, 422, "encrypted"),
        (b"", AGREED, 422, "not a bank"),
        (bytes(3_000_000), AGREED, 413, "3 MB"),
    ],
)
async def test_what_cannot_be_used_has_its_status_and_the_call_goes_on(
    client: httpx.AsyncClient,
    caller: Caller,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    params: dict[str, str],
    status: int,
    cause: str,
) -> None:
    monkeypatch.setattr(guard, "MAX_BYTES", 2_999_999)
    path = await begin(client, caller)
    answer = await client.post(path, params=params, content=content)
    assert answer.status_code == status, answer.text
    assert cause in answer.json()["error"] and "\n" not in answer.json()["error"]
    figures = (await client.get(path.replace("/bank", "/stats"))).json()
    assert figures["bank"]["enrolled"] == "none"


async def test_no_bank_leaves_without_consent(client: httpx.AsyncClient, caller: Caller) -> None:
    path = await begin(client, caller)
    assert (await client.get(path)).status_code == 403
    assert (await client.get("/api/sessions/never-was/bank", params=AGREED)).status_code == 404


async def test_banks_are_the_publisher_s_and_sealed_with_the_server_s_key(engine: Engine) -> None:
    secret = "s" * 32
    settings: dict[str, Any] = {"jwt_secret": secret, "bank_key": KEY}
    others = frozenset(Right) - {Right.PUBLISH}

    def bearer(rights: frozenset[Right]) -> dict[str, str]:
        return {"Authorization": f"Bearer {make_jwt(secret, rights, 60, time.time())}"}

    async with Caller(Camera(speaking(SHUT).copy())) as caller:
        with Running(engine, **settings) as running:
            async with httpx.AsyncClient(base_url=running.url, timeout=20) as client:
                client.headers = httpx.Headers(bearer(frozenset(Right)))
                path = await begin(client, caller)
                for method in ("GET", "POST"):
                    refused = await client.request(
                        method, path, params=AGREED, headers=bearer(others)
                    )
                    assert refused.status_code == 403 and "publish" in refused.json()["error"]
                sealed = write_bank(enrolled(), KEY)
                given = await client.post(path, params=AGREED, content=sealed)
                assert given.status_code == 202
                await until(lambda: "used" in told(caller), "the face is known")
                taken = await client.get(path, params=AGREED)
                assert len(read_bank(taken.content, KEY).units) > len(enrolled().units)
                assert b"mouth" not in taken.content
