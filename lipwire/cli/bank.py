"""`lipwire enroll` and `lipwire bank`: a person's own mouths in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look into and delete files of a person's mouths.", no_args_is_help=True)

BankArgument = Annotated[Path, typer.Argument(metavar="PERSON.bank")]


def bank_key() -> str | None:
    """What banks are encrypted with; on the command line it would be seen by others."""
    return os.environ.get("LIPWIRE_BANK_KEY") or None


def enroll(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="Ten seconds or more of the person speaking.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .bank file to write.")],
    consent: Annotated[
        str, typer.Option(help="What the person shown has agreed to, in words; kept in the file.")
    ],
    person: Annotated[str, typer.Option(help="Their name; without it, that of the file.")] = "",
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Model folder; without it, the model that ships."),
    ] = None,
) -> None:
    """Keep a person's own mouths, so that their calls begin with them.

    LIPWIRE_BANK_KEY, if it is set, encrypts the file.
    """
    from lipwire.server.dub.enroll import enroll as run
    from lipwire.server.media.banks import consent_now, save_bank

    bank = run(video, consent_now(person or out.stem, consent), bundle)
    size = save_bank(out, bank, bank_key())
    how = "encrypted" if bank_key() else "not encrypted, as LIPWIRE_BANK_KEY is not set"
    print(f"{out}: {len(bank.units)} mouths, {size / 1e6:.1f} MB, {how}")


@app.command()
def show(bank: BankArgument) -> None:
    """Say whose mouths a file holds and what they agreed to; no mouth is shown."""
    from lipwire.server.media.banks import open_bank

    opened = open_bank(bank, bank_key())
    agreed = opened.consent
    openings = [unit.codes[0] for unit in opened.units]
    print(f"person   {agreed.person}")
    print(f"consent  {agreed.statement}")
    print(f"made     {agreed.date}, lipwire {agreed.version}")
    span = f"{min(openings):.1f} to {max(openings):.1f} pixels of a 128-pixel crop"
    print(f"mouths   {len(opened.units)}, open by {span}")


@app.command()
def delete(bank: BankArgument) -> None:
    """Delete a file of mouths; other files are refused. Copies elsewhere are not known of."""
    from lipwire.engine.errors import BankError
    from lipwire.engine.units.bank_file import MAGIC, is_bank
    from lipwire.server.media.banks import read_start

    if not is_bank(read_start(bank, len(MAGIC))):
        raise BankError(f"{bank}: not a bank of mouths; it is left alone")
    try:
        bank.unlink()
    except OSError as error:
        raise BankError(f"{bank}: cannot be deleted ({error.strerror})") from error
    print(f"{bank}: deleted")
