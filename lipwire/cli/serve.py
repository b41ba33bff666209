"""`lipwire serve`, and the tokens that its strangers need."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

token_app = typer.Typer(help="Make tokens for `lipwire serve`.", no_args_is_help=True)

ON_LISTENING, ON_ACCESS, ON_MEDIA = "Where it listens", "Who may do what", "Media over UDP"


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[int | None, typer.Option(help="TCP port.", show_default="8080")] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Model folder; without it, the model that ships."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the model; without it, by the machine.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="The model's runtime: ort, trt, ...; auto takes the fastest.", show_default="ort"
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Where the model runs, e.g. cuda:0 or cpu; may repeat.")
    ] = None,
    tracker: Annotated[
        Literal["litert", "mediapipe"] | None,
        typer.Option(help="What runs MediaPipe's face nets.", show_default="litert"),
    ] = None,
    max_sessions: Annotated[int | None, typer.Option(help="Calls at the same time.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with any setting; see docs/server.md.")
    ] = None,
    log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug"] | None,
        typer.Option(help="What is logged.", show_default="warning"),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"] | None, typer.Option(help="For people or for machines.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain, PEM.", rich_help_panel=ON_LISTENING)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its key, PEM.", rich_help_panel=ON_LISTENING)
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Bearer token that may do all. LIPWIRE_TOKEN hides it from `ps`.",
            rich_help_panel=ON_ACCESS,
        ),
    ] = None,
    allowed_origins: Annotated[
        str | None,
        typer.Option(
            help="Other origins whose pages may use the API, by commas.", rich_help_panel=ON_ACCESS
        ),
    ] = None,
    ice_host: Annotated[
        str | None,
        typer.Option(help="The one address offered for media.", rich_help_panel=ON_MEDIA),
    ] = None,
    ice_announce: Annotated[
        str | None,
        typer.Option(help="Our address as others see it through NAT.", rich_help_panel=ON_MEDIA),
    ] = None,
    ice_ports: Annotated[
        str | None, typer.Option(help="UDP ports, e.g. 50000-50100.", rich_help_panel=ON_MEDIA)
    ] = None,
    wyoming: Annotated[
        str | None,
        typer.Option(
            help="Wyoming clients speak into NAME: tcp://127.0.0.1:10700/NAME.",
            rich_help_panel=ON_LISTENING,
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Folder for recordings that sessions ask for; without it, none."),
    ] = None,
    mark: Annotated[
        bool | None,
        typer.Option(help="Draw the mark on every picture that leaves.", show_default="mark"),
    ] = None,
    ladder: Annotated[
        bool | None,
        typer.Option(help="Lower the quality under overload, by rungs.", show_default="ladder"),
    ] = None,
) -> None:
    """Start the server and its page; flags go before LIPWIRE_* variables of the environment."""
    flags = dict(locals())  # all of them are settings of the same name, but these two
    file, devices = flags.pop("config"), flags.pop("device")
    from lipwire.server.config import load_config

    settings = load_config(file, devices=tuple(devices) if devices else None, **flags)
    settings.check_guarded()
    from lipwire.server.api.app import serve as run  # after them: wrong ones need no waiting

    run(settings)


@token_app.command("new")
def new() -> None:
    """A random token for --token or LIPWIRE_TOKEN, or a secret for LIPWIRE_JWT_SECRET."""
    from lipwire.server.api.auth import new_token

    print(new_token())


@token_app.command("jwt")
def sign(
    scope: Annotated[
        list[str], typer.Option(help="publish, watch, speak, control or metrics; may repeat.")
    ],
    session: Annotated[str | None, typer.Option(help="The only session it is for.")] = None,
    ttl: Annotated[float, typer.Option(min=1, help="Life, seconds.")] = 300,
    consent: Annotated[
        bool, typer.Option("--consent", help="The person shown has agreed.")
    ] = False,
) -> None:
    """A JSON Web Token that expires, signed with LIPWIRE_JWT_SECRET."""
    from lipwire.engine.errors import ConfigError
    from lipwire.server.api.auth import Right, make_jwt
    from lipwire.server.config import load_config

    settings = load_config()
    if settings.jwt_secret is None:
        raise ConfigError("LIPWIRE_JWT_SECRET is not set; `lipwire token new` makes one")
    if ttl > settings.jwt_ttl_max_s:
        raise ConfigError(f"ttl is {ttl:g} s, must be at most {settings.jwt_ttl_max_s:g} s")
    unknown = [name for name in scope if name not in set(Right)]
    if unknown:
        raise ConfigError(f"scope {unknown[0]!r} is none of {', '.join(Right)}")
    secret, rights = settings.jwt_secret.get_secret_value(), frozenset(map(Right, scope))
    print(make_jwt(secret, rights, ttl, time.time(), session, consent))
