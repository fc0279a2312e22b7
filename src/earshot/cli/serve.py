"""`earshot serve`: one process, one model, all protocols.

Turns options into a configuration and loads what is served; knows nothing of protocols.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from earshot.cli.console import note, reported, say, usage_error
from earshot.cli.transcribe import (
    CommandsOption,
    CommandThresholdOption,
    Method,
    PronunciationsOption,
    check_command_options,
    loaded,
)

if TYPE_CHECKING:
    from earshot.serve.config import ServeConfig
    from earshot.serve.server import Addresses, ServedModel

_MB = 1_000_000

HostOption = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 takes connections from elsewhere.")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(help="Let in only who sends one of these tokens: one a line, plain or hashed."),
]
TlsCertOption = Annotated[
    Path | None, typer.Option(help="Certificate chain, PEM; HTTP becomes HTTPS.")
]
TlsKeyOption = Annotated[Path | None, typer.Option(help="Private key of the certificate.")]
AllowHostOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A public name that the server is reached by; repeatable.",
        show_default=False,
    ),
]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: HostOption = "127.0.0.1",
    http_port: Annotated[
        int,
        typer.Option(
            min=-1, max=65535, help="HTTP, WebSockets and the page; 0: a free one, -1: none."
        ),
    ] = 8080,
    wyoming_port: Annotated[
        int,
        typer.Option(min=-1, max=65535, help="Wyoming; 0: a free one, -1: none."),
    ] = 10300,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="A .ear file; without it, the embedded model."),
    ] = None,
    commands: CommandsOption = None,
    command_threshold: CommandThresholdOption = None,
    pronunciations: PronunciationsOption = None,
    method: Annotated[Method, typer.Option(help="How to search.")] = Method.BEAM,
    max_active_paths: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Width of the beam; default 4, 8 with a language model.",
            show_default=False,
        ),
    ] = None,
    token_file: TokenFileOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    local_only: Annotated[
        bool,
        typer.Option("--local-only", help="Loopback only, and the kernel lets no connection out."),
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Let pages of https://host[:port] use the server; repeatable.",
            show_default=False,
        ),
    ] = None,
    allow_host: AllowHostOption = None,
    zeroconf: Annotated[
        bool | None,
        typer.Option(
            "--zeroconf/--no-zeroconf",
            help="Announce Wyoming on the network; default: where it can be reached from there.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="What it is announced as.")] = "earshot",
    wyoming_endpointing: Annotated[
        bool,
        typer.Option(
            "--wyoming-endpointing", help="Answer when the speaker is done, before audio-stop."
        ),
    ] = False,
    max_streams: Annotated[int, typer.Option(min=1, help="Streams and uploads at once.")] = 512,
    max_streams_per_client: Annotated[
        int, typer.Option(min=1, help="The same for one token, or one address without tokens.")
    ] = 256,
    max_upload_mb: Annotated[
        float, typer.Option(min=0.001, help="Largest request body, MB.")
    ] = 100,
    max_upload_s: Annotated[
        float, typer.Option(min=0.1, help="Longest recording in one request, seconds.")
    ] = 14_400,
    max_stream_s: Annotated[
        float, typer.Option(min=0.1, help="Longest live stream, seconds of sound.")
    ] = 43_200,
    max_silence_s: Annotated[
        float, typer.Option(min=0.1, help="End a live stream after so much without speech.")
    ] = 3600,
    idle_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="End a live stream that sends nothing for so long.")
    ] = 60,
    drain_timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Time that streams get to finish when stopped.")
    ] = 10,
    log_transcripts: Annotated[
        bool, typer.Option("--log-transcripts", help="Write what was said into the log.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one JSON object.")
    ] = False,
) -> None:
    """Serve the model over WebSocket, OpenAI's interface and Wyoming, with a page to try it.

    Stops at Ctrl-C or SIGTERM, after what was said is finished. The log is JSON lines on stderr.
    """
    if context.invoked_subcommand is not None:
        return
    check_command_options(commands, command_threshold, pronunciations)
    with reported():
        from earshot.core.errors import ConfigError
        from earshot.serve.config import Limits, ServeConfig

        try:
            config = ServeConfig(
                host=host,
                http_port=None if http_port < 0 else http_port,
                wyoming_port=None if wyoming_port < 0 else wyoming_port,
                token_file=token_file,
                tls_cert=tls_cert,
                tls_key=tls_key,
                local_only=local_only,
                allow_origins=tuple(allow_origin or ()),
                allow_hosts=tuple(allow_host or ()),
                zeroconf=zeroconf,
                name=name,
                wyoming_endpointing=wyoming_endpointing,
                log_transcripts=log_transcripts,
                limits=Limits(
                    max_streams=max_streams,
                    max_streams_per_client=max_streams_per_client,
                    max_upload_bytes=round(max_upload_mb * _MB),
                    max_audio_s=max_upload_s,
                    max_stream_s=max_stream_s,
                    max_silence_s=max_silence_s,
                    idle_timeout_s=idle_timeout_s,
                    drain_timeout_s=drain_timeout_s,
                ),
            )
        except ConfigError as err:
            raise usage_error(str(err)) from None
        from earshot.serve.server import check_installed

        check_installed()
        recognizer = loaded(
            model,
            commands=commands,
            command_threshold=command_threshold,
            pronunciations=pronunciations,
            method=method.value,
            max_active_paths=max_active_paths,
        )
        served = _served(recognizer, model, commands)
        _run(served, config, verbose=verbose, as_json=as_json)


def _served(recognizer: Any, model: Path | None, commands: list[str] | None) -> ServedModel:
    from earshot.serve.server import served_model
    from earshot.session.recognizer import embedded_model_path

    recognize = None
    if commands:
        from earshot.core.understanding import Understanding
        from earshot.understand.matching import Matcher
        from earshot.understand.templates import load_commands

        matcher = Matcher(load_commands(commands).network)

        def recognize(text: str) -> Understanding:
            return matcher.closest(text) or Understanding(None, {}, 0.0)

    return served_model(
        embedded_model_path() if model is None else model,
        recognizer,
        commands=tuple(dict.fromkeys(Path(name).stem for name in commands or ())),
        recognize=recognize,
    )


def _run(served: ServedModel, config: ServeConfig, *, verbose: bool, as_json: bool) -> None:
    import json
    import logging

    from earshot.serve import logs
    from earshot.serve.server import Server

    logs.configure(
        keep_transcripts=config.log_transcripts, level=logging.DEBUG if verbose else logging.INFO
    )

    def ready(addresses: Addresses) -> None:
        if as_json:
            say(json.dumps({"http": addresses.http, "wyoming": addresses.wyoming}))
            return
        if addresses.http is not None:
            say(f"page and interfaces: {addresses.http}/")
        if addresses.wyoming is not None:
            say(f"Wyoming: {addresses.wyoming}")
        note("Ctrl-C stops it")

    async def main() -> None:
        await Server(model=served, config=config, on_ready=ready).run()

    asyncio.run(main())
