"""The server behind the page: Starlette, with a token for each speaker.

GET    /                             the page; its files hold no data and need no token
GET    /api/session                  form, prompts, recordings, progress
POST   /api/consent                  agree: {"id", "version"};  DELETE: take back
POST   /api/skips                    {"prompt_id"}
POST   /api/uploads                  announce a recording, or ask how far it came
PUT    /api/uploads/ID?offset=N      its bytes from N on; the last ones bring the verdict
GET    /api/pictures/NAME            one that a prompt of the speaker is about
GET    /api/recordings/NAME          its sound;  DELETE: remove it
DELETE /api/speaker                  remove everything
"""

import asyncio
import dataclasses
import hmac
import json
import pathlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offsites_jax.errors import OffsitesError
from offsites_jax.projects.euphonia.collect.collection import Collection, Metadata
from offsites_jax.projects.euphonia.collect.consent import Consent, agreed
from offsites_jax.projects.euphonia.collect.uploads import MAX_BYTES, Progress, Refused, Uploads
from offsites_jax.projects.euphonia.collect.verdict import REMARKS

_STATIC = pathlib.Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MAX_JSON = 16 * 1024
_PATIENCE = 60.0  # seconds without a byte

Handler = Callable[["Study", str, Request], Awaitable[Response]]


@dataclasses.dataclass(frozen=True)
class Study:
    """What the server works on.

    Attributes:
      collection: where recordings go.
      form: what has to be agreed to.
      tokens: speaker by secret of the link.

    """

    collection: Collection
    form: Consent
    tokens: Mapping[str, str]

    def speaker_of(self, request: Request) -> str:
        """Whose token a request carries.

        Raises:
          Refused: none, a wrong one, or that of a speaker who is no more.

        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        matches = [
            s for token, s in self.tokens.items() if hmac.compare_digest(token.encode(), given.encode())
        ]
        if scheme.lower() != "bearer" or not matches:
            raise Refused(401, "This link is not valid any more. Please open the newest link.")
        if matches[0] not in self.collection.speakers():
            raise Refused(410, "All data of this link was deleted.")
        return matches[0]


def create_app(study: Study, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> Starlette:
    """The web application.

    Args:
      study: see there.
      hosts: names it may be addressed by, so that no other site can pass itself off as it.

    """
    uploads = Uploads(study.collection, study.form)
    files = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.suffix in _TYPES}

    async def static(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:  # names are looked up, never made into paths
            raise HTTPException(404)
        return Response(files[name], media_type=_TYPES[pathlib.PurePath(name).suffix])

    def route(path: str, method: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            speaker = await run_in_threadpool(study.speaker_of, request)
            return await handler(study, speaker, request)

        return Route(path, endpoint, methods=[method])

    async def announce(study: Study, speaker: str, request: Request) -> Response:
        progress = await run_in_threadpool(uploads.begin, speaker, await _json(request))
        return JSONResponse(_progress(progress))

    async def receive(_: Study, speaker: str, request: Request) -> Response:
        return await _receive(uploads, speaker, request)

    return Starlette(
        routes=[
            Route("/", static),
            Route("/static/{name}", static),
            route("/api/session", "GET", _session),
            route("/api/consent", "POST", _agree),
            route("/api/consent", "DELETE", _revoke),
            route("/api/skips", "POST", _skip),
            route("/api/uploads", "POST", announce),
            route("/api/uploads/{id}", "PUT", receive),
            route("/api/pictures/{name}", "GET", _picture),
            route("/api/recordings/{name}", "GET", _sound),
            route("/api/recordings/{name}", "DELETE", _delete_recording),
            route("/api/speaker", "DELETE", _delete_speaker),
        ],
        middleware=[
            Middleware(_SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={
            Refused: _refused,
            HTTPException: _http_error,
            OffsitesError: _server_error,
            OSError: _server_error,
        },
    )


async def _session(study: Study, speaker: str, _: Request) -> Response:
    return JSONResponse(await run_in_threadpool(_describe, study, speaker))


def _describe(study: Study, speaker: str) -> dict[str, Any]:
    collection, form = study.collection, study.form
    granted = agreed(collection.consents(speaker), form)
    return {
        "speaker": speaker,
        "language": collection.language,
        "max_bytes": MAX_BYTES,
        "consent": {**_form(form), "granted": granted},
        "prompts": [prompt._asdict() for prompt in collection.prompts(speaker).values()] if granted else [],
        "recordings": [_public(metadata) for metadata in collection.recordings(speaker)] if granted else [],
        "skipped": collection.skipped(speaker),
    }


def _form(form: Consent) -> dict[str, Any]:
    return {"id": form.consent_id, "version": form.version, "title": form.title, "text": form.text}


async def _agree(study: Study, speaker: str, request: Request) -> Response:
    shown = await _json(request)
    if (shown.get("id"), shown.get("version")) != (study.form.consent_id, study.form.version):
        raise Refused(409, "There is a newer version of the form. Please load the page again.")
    await run_in_threadpool(study.collection.agree, speaker, study.form)
    return JSONResponse(await run_in_threadpool(_describe, study, speaker))


async def _revoke(study: Study, speaker: str, _: Request) -> Response:
    await run_in_threadpool(study.collection.revoke, speaker)
    return JSONResponse(await run_in_threadpool(_describe, study, speaker))


async def _skip(study: Study, speaker: str, request: Request) -> Response:
    prompt_id = (await _json(request)).get("prompt_id")
    if prompt_id not in await run_in_threadpool(study.collection.prompts, speaker):
        raise Refused(404, "There is no such prompt.")
    await run_in_threadpool(study.collection.skip, speaker, str(prompt_id))
    return JSONResponse({"skipped": study.collection.skipped(speaker)})


async def _receive(uploads: Uploads, speaker: str, request: Request) -> Response:
    """Bytes go to the disk as they come, so that what arrived before a break is not sent again."""
    upload_id, offset = request.path_params["id"], request.query_params.get("offset", "")
    if not offset.isdecimal() or len(offset) > 9:
        raise Refused(400, "offset is malformed.")
    with await run_in_threadpool(uploads.open, speaker, upload_id, int(offset)) as receiver:
        pieces = request.stream()
        try:
            while piece := await asyncio.wait_for(anext(pieces, b""), _PATIENCE):
                receiver.write(piece)
        except TimeoutError as error:
            raise Refused(408, "The connection was too slow.") from error
        except ClientDisconnect:
            return Response(status_code=400)  # nobody hears it; the bytes are kept
    return JSONResponse(_progress(await run_in_threadpool(uploads.finish, speaker, upload_id)))


async def _picture(study: Study, speaker: str, request: Request) -> Response:
    name = request.path_params["name"]
    prompts = await run_in_threadpool(study.collection.prompts, speaker)
    if not name or name not in {prompt.picture for prompt in prompts.values()}:
        raise Refused(404, "There is no such picture.")
    return FileResponse(study.collection.picture_path(name))


async def _sound(study: Study, speaker: str, request: Request) -> Response:
    name = request.path_params["name"]
    if study.collection.recording(speaker, name) is None:
        raise Refused(404, "There is no such recording.")
    return FileResponse(study.collection.recording_path(speaker, name), media_type="audio/wav")


async def _delete_recording(study: Study, speaker: str, request: Request) -> Response:
    name = request.path_params["name"]
    if study.collection.recording(speaker, name) is None:
        raise Refused(404, "There is no such recording.")
    await run_in_threadpool(study.collection.delete_recording, speaker, name)
    return JSONResponse({"deleted": name})


async def _delete_speaker(study: Study, speaker: str, _: Request) -> Response:
    count = await run_in_threadpool(study.collection.delete_speaker, speaker)
    return JSONResponse({"deleted": count})


def _progress(progress: Progress) -> dict[str, Any]:
    done = progress.metadata
    return {"offset": progress.offset, "recording": _public(done) if done else None}


def _public(metadata: Metadata) -> dict[str, Any]:
    """What the page needs of a recording."""
    own = metadata["offsites"]
    return {
        "name": metadata["name"].removesuffix(".wav"),
        "prompt_id": metadata["task"],
        "version": own["version"],
        "sha256": own["sha256"],
        "seconds": own["seconds"],
        "rating": own["rating"],
        "remarks": [REMARKS[code] for code in own["remarks"] if code in REMARKS],
    }


async def _json(request: Request) -> dict[str, Any]:
    """The body of a request, if it is a small JSON object of the declared type."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refused(415, "JSON is wanted.")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_JSON:
            raise Refused(413, "The request is too large.")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The request is no JSON.") from error
    if not isinstance(value, dict):
        raise Refused(400, "The request is no JSON object.")
    return value


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    # The rest of a body may still be under way: without `close` it would be read as the next request.
    headers = {"Connection": "close"}
    return JSONResponse({"error": error.message, **error.more}, error.status, headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _server_error(_: Request, error: Exception) -> Response:
    """A full disk, a file that someone changed: the page keeps the recording and tries again later."""
    print(f"warning: {error}")
    return JSONResponse({"error": "The recording cannot be stored at the moment."}, 507)


class _SecurityHeaders:
    """Adds the headers that keep other sites, scripts and frames out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
