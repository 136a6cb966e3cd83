"""The recording page in a real browser with a made-up microphone, worked by its keyboard alone.

In an environment with offsites-jax[collect] and playwright 1.49 or newer, where there is Chromium or Chrome:

    python tools/checks/collection.py [--browser /usr/bin/chromium] [--pictures FOLDER]

Consents, records three phrases, kills the server while one is on its way, loads the page again, deletes one,
and compares what the page says with the files on disk. Then a question about a picture, silence, a microphone
that is too loud, a narrow window, large text, a screen that wants no motion, taking back the agreement, and
deleting everything.
Prints a line of JSON for each thing that was checked, and ends with 1 if one of them failed.
"""

import argparse
import contextlib
import hashlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

RATE = 48000
SERVE = (
    "import sys; from offsites_jax.projects.euphonia.collect.commands import collect; "
    "collect(sys.argv[1], port=int(sys.argv[2]), unique=12, repeated=0, questions=(sys.argv[3],))"
)


class Checks:
    """Collects what held and what did not."""

    def __init__(self) -> None:
        self.failed = 0

    def expect(self, name: str, holds: bool, **details: Any) -> None:
        """Print one result."""
        self.failed += not holds
        print(json.dumps({"name": name, "ok": bool(holds), **details}), flush=True)


class Server:
    """The command as its own process, so that it can be killed."""

    def __init__(self, folder: pathlib.Path, questions: pathlib.Path) -> None:
        self.folder = folder
        self.questions = questions
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.link = ""

    def start(self) -> str:
        """The link it prints."""
        command = [sys.executable, "-c", SERVE, str(self.folder), str(self.port), str(self.questions)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        for line in self.process.stdout:
            found = re.search(r"http://\S+", line)
            if found:
                self.link = found[0]
                return self.link
        raise RuntimeError("the server did not start")

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    """Runs all checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--pictures", default="")
    options = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory() as temporary:
        here = pathlib.Path(temporary)
        pictures = pathlib.Path(options.pictures or here / "pictures")
        pictures.mkdir(parents=True, exist_ok=True)
        server = Server(here / "study", write_questions(here))
        try:
            with browse(options.browser, write_sound(here / "speech.wav", 0.3), checks) as page:
                record_three(page, server, checks, pictures)
                delete_one(page, server, checks)
                answer(page, server, checks, pictures)
                look(page, checks, pictures)
            with browse(options.browser, write_sound(here / "silence.wav", 0), checks) as page:
                one_verdict(page, server, "silence", "We could not hear any speech", checks, pictures)
            with browse(options.browser, write_sound(here / "loud.wav", 30), checks) as page:
                page.add_init_script("delete BaseAudioContext.prototype.audioWorklet")
                one_verdict(page, server, "loud", "too loud", checks, pictures)
                kind = recordings(server)[-1][0]["offsites"]["device"]["recorder"]
                checks.expect("older_browsers_record", kind == "ScriptProcessor", kind=kind)
                leave(page, server, checks, pictures)
        finally:
            server.kill()
    sys.exit(checks.failed > 0)


def write_sound(path: pathlib.Path, level: float) -> pathlib.Path:
    """Syllables of a harmonic sound with pauses, which the browser plays in a loop as its microphone."""
    seconds = np.arange(6 * RATE) / RATE
    voice = sum(np.sin(2 * np.pi * 140 * k * seconds) / k for k in range(1, 20))
    syllables = np.clip(np.sin(2 * np.pi * 3 * seconds), 0, 1) * (seconds % 3 < 2.2)
    noise = np.random.default_rng(0).normal(0, 1e-3 if level else 0, seconds.shape)
    samples = np.clip(level * voice * syllables + noise, -1, 1)
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return path


def write_questions(folder: pathlib.Path) -> pathlib.Path:
    """A file with one question, which comes in the middle of the list, about a picture of a house."""
    picture = Image.new("RGB", (800, 600), "#cfe8ff")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((250, 300, 550, 520), "#b35c3c")
    draw.polygon(((220, 300), (400, 150), (580, 300)), "#6b2d1a")
    draw.rectangle((370, 400, 430, 520), "#2d1a10")
    picture.save(folder / "house.png")
    file = folder / "questions.txt"
    file.write_text("conversational\tWhat do you see in this picture?\thouse.png\n")
    return file


@contextlib.contextmanager
def browse(browser: str, sound: pathlib.Path, checks: Checks) -> Iterator[Page]:
    """A page in a browser whose microphone hears a file; what it complains about fails the check."""
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}",
        "--no-sandbox",
    ]
    complaints: list[str] = []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=arguments)
        page = opened.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        yield page
        opened.close()
    serious = [
        text for text in complaints if "ERR_CONNECTION" not in text
    ]  # the server was killed on purpose
    checks.expect("no_complaints_of_the_browser", not serious, complaints=serious[:5])


def record_three(page: Page, server: Server, checks: Checks, pictures: pathlib.Path) -> None:
    """Consent and three recordings; the server dies after the second was spoken."""
    page.goto(server.start())
    page.wait_for_selector("#agree")
    page.screenshot(path=pictures / "consent.png")
    press_on(page, "agree")
    page.wait_for_selector("#status:has-text('Ready')")
    checks.expect("record_is_focused", focused(page) == "record")
    page.screenshot(path=pictures / "ready.png")
    speak(page, pictures / "recording.png")
    page.screenshot(path=pictures / "verdict.png")
    listen(page, checks)
    page.keyboard.press("ArrowRight")
    server.kill()
    speak(page, wait=False)
    page.wait_for_selector("#verdict[data-rating=sending]:visible")
    page.wait_for_selector("#status:has-text('The server does not answer')")
    page.screenshot(path=pictures / "sending.png")
    checks.expect("nothing_on_disk_yet", len(recordings(server)) == 1)
    discard_unsent(page, checks)
    server.start()
    page.goto("about:blank")
    page.goto(server.link)
    wait_until(lambda: len(recordings(server)) == 2)
    checks.expect("unsent_recording_survived", len(recordings(server)) == 2)
    page.wait_for_selector("#verdict:not([data-rating=sending]):visible")
    checks.expect("same_phrase_after_reload", page.text_content("#place").startswith("Phrase 2 "))
    page.keyboard.press("ArrowRight")
    speak(page)
    page.reload()
    page.wait_for_selector("#verdict:visible")
    checks.expect("progress", page.text_content("#progress-text") == "3 of 13 recorded")
    compare(page, server, checks)


def discard_unsent(page: Page, checks: Checks) -> None:
    """Another phrase, recorded without a server and deleted again."""
    page.keyboard.press("ArrowRight")
    speak(page, wait=False)
    page.wait_for_selector("#verdict[data-rating=sending]:visible")
    press_on(page, "delete")
    page.wait_for_selector("#ask[open]")
    press_on(page, "ask-yes")
    page.wait_for_selector("#verdict", state="hidden")
    checks.expect("unsent_can_be_deleted", page.text_content("#progress-text") == "2 of 13 recorded")
    page.keyboard.press("ArrowLeft")


def listen(page: Page, checks: Checks) -> None:
    """Play the recording; then come back to Record by the keyboard."""
    press_on(page, "listen")
    page.wait_for_selector("#listen:has-text('Stop listening')")
    page.wait_for_selector("#listen:text-is('Listen')")
    checks.expect("played_to_its_end", focused(page) == "listen")
    for _ in range(3):
        page.keyboard.press("Shift+Tab")
    checks.expect("a_second_press_is_one", still_recording_after_a_tremor(page))


def still_recording_after_a_tremor(page: Page) -> bool:
    """Go to the next phrase and press Space three times at once; the recording is thrown away."""
    page.keyboard.press("ArrowRight")
    for _ in range(3):
        page.keyboard.press("Space")
    page.wait_for_selector("#phase:has-text('Speak now')")
    recording = page.text_content("#record-label") == "Stop"
    page.on("dialog", lambda dialog: dialog.accept())  # the page warns that it is recording
    page.reload()
    page.wait_for_selector("#record-label:text-is('Record')")
    page.keyboard.press("ArrowLeft")
    return recording


def compare(page: Page, server: Server, checks: Checks) -> None:
    """Files on disk against their JSON, and against the page."""
    found = recordings(server)
    checks.expect("three_recordings", len(found) == 3)
    for metadata, sound in found:
        own = metadata["offsites"]
        with wave.open(str(sound)) as stream:
            seconds = stream.getnframes() / stream.getframerate()
            form = (stream.getnchannels(), stream.getsampwidth())
        data = sound.read_bytes()
        checks.expect("digest", hashlib.sha256(data).hexdigest() == own["sha256"])
        checks.expect("mono_16_bit", form == (1, 2), rate=own["sampleRate"])
        checks.expect("lead_and_trail", 1.5 <= seconds < 20, seconds=round(seconds, 2))
        checks.expect(
            "speech_heard", own["rating"] != "again", quality=own["quality"], remarks=own["remarks"]
        )
        checks.expect("consented", metadata["consents"][0]["revokeTimestamp"] == 0)
        checks.expect("recorder", own["device"]["recorder"] == "AudioWorklet")
    shown = page.get_attribute("#verdict", "data-rating")
    checks.expect("verdict_shown_is_verdict_stored", shown == found[-1][0]["offsites"]["rating"], shown=shown)


def delete_one(page: Page, server: Server, checks: Checks) -> None:
    """By keyboard: first no, then yes."""
    press_on(page, "delete")
    page.wait_for_selector("#ask[open]")
    checks.expect("no_is_focused", focused(page) == "ask-no")
    page.keyboard.press("Escape")
    page.wait_for_selector("#ask", state="hidden")
    checks.expect("escape_keeps", len(recordings(server)) == 3)
    press_on(page, "delete")
    page.wait_for_selector("#ask[open]")
    press_on(page, "ask-yes")
    page.wait_for_selector("#status:has-text('Deleted')")
    wait_until(lambda: len(recordings(server)) == 2)
    buried = (server.folder / "tombstones.jsonl").read_text().splitlines()
    checks.expect("deleted", len(recordings(server)) == 2 and len(buried) == 1)
    checks.expect("no_sound_left", len(list(server.folder.rglob("*.wav"))) == 2)


def answer(page: Page, server: Server, checks: Checks, pictures: pathlib.Path) -> None:
    """Go to the question, see its picture, answer, and go back to where one was."""
    place = page.text_content("#place")
    steps = 0
    while not page.text_content("#place").startswith("Question") and steps < 12:
        page.keyboard.press("ArrowRight")
        steps += 1
    page.wait_for_selector("#picture:visible")
    width = "document.getElementById('picture').naturalWidth"
    wait_until(lambda: page.evaluate(width) > 0)
    checks.expect("picture_is_shown", page.evaluate(width) == 800 and page.is_visible("#task"))
    below = page.evaluate("document.getElementById('record').getBoundingClientRect().bottom - innerHeight")
    checks.expect("record_is_in_view", below <= 0, below=below)
    speak(page)
    page.screenshot(path=pictures / "question.png")
    stored = recordings(server)[-1][0]
    checks.expect("answer_is_a_response", stored["taskType"] == "response", stored=stored["prompt"])
    for _ in range(steps):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#picture", state="hidden")
    checks.expect("phrases_have_no_picture", page.text_content("#place") == place and page.is_hidden("#task"))


def look(page: Page, checks: Checks, pictures: pathlib.Path) -> None:
    """At other sizes and settings, with everything unfolded."""
    page.keyboard.press("ArrowLeft")
    page.screenshot(path=pictures / "wide.png")
    for fold in ("#settings", "#data"):
        page.eval_on_selector(fold, "fold => fold.open = true")
    page.screenshot(path=pictures / "unfolded.png", full_page=True)
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=pictures / "dark.png", full_page=True)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    style = "getComputedStyle(document.getElementById('meter-level')).transitionDuration"
    checks.expect("no_motion", page.evaluate(style) == "0s")
    for name, width, height in (("narrow", 320, 640), ("zoom200", 640, 450)):
        page.set_viewport_size({"width": width, "height": height})
        page.screenshot(path=pictures / f"{name}.png", full_page=True)
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        checks.expect(f"fits_{name}", overflow <= 0, overflow=overflow)
        sizes = "[...document.querySelectorAll('button, select, summary')].filter(b => b.offsetParent)"
        smallest = page.evaluate(f"Math.min(...{sizes}.map(b => Math.min(b.offsetWidth, b.offsetHeight)))")
        checks.expect(f"large_targets_{name}", smallest >= 44, smallest=smallest)
    page.set_viewport_size({"width": 1280, "height": 900})


def one_verdict(
    page: Page, server: Server, name: str, words: str, checks: Checks, pictures: pathlib.Path
) -> None:
    """A recording that should be made again, and what the page says about it."""
    page.goto(server.link)
    page.wait_for_selector("#view-recorder:not([hidden])")
    before = len(recordings(server))
    speak(page)
    page.screenshot(path=pictures / f"{name}.png")
    shown = page.text_content("#verdict")
    checks.expect(f"{name}_is_noticed", words in shown and len(recordings(server)) == before + 1, shown=shown)


def leave(page: Page, server: Server, checks: Checks, pictures: pathlib.Path) -> None:
    """Take the agreement back, then delete everything."""
    page.eval_on_selector("#data", "fold => fold.open = true")
    press_on(page, "revoke")
    page.wait_for_selector("#ask[open]")
    press_on(page, "ask-yes")
    page.wait_for_selector("#agree:visible")
    revoked = [metadata["consents"][0]["revokeTimestamp"] > 0 for metadata, _ in recordings(server)]
    checks.expect("revoked", all(revoked))
    press_on(page, "delete-all")
    page.wait_for_selector("#ask[open]")
    page.screenshot(path=pictures / "ask.png")
    press_on(page, "ask-yes")
    page.wait_for_selector("#view-message:not([hidden])")
    page.screenshot(path=pictures / "gone.png")
    left = [path.name for path in server.folder.rglob("*") if "spk-" in path.name or path.suffix == ".wav"]
    checks.expect("everything_deleted", not left, left=left)


def speak(page: Page, picture: pathlib.Path | None = None, wait: bool = True) -> None:
    """Space, two seconds of speech, Space."""
    page.keyboard.press("Space")
    page.wait_for_selector("#phase:has-text('Speak now')")
    time.sleep(2)
    if picture:
        page.screenshot(path=picture)
    page.keyboard.press("Space")
    if wait:
        page.wait_for_selector("#verdict:not([data-rating=sending]):visible")


def press_on(page: Page, element: str) -> None:
    """Tab until it is focused, then Enter."""
    for _ in range(40):
        if focused(page) == element:
            page.keyboard.press("Enter")
            return
        page.keyboard.press("Tab")
    raise RuntimeError(f"{element} cannot be reached by keyboard")


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))


def recordings(server: Server) -> list[tuple[dict[str, Any], pathlib.Path]]:
    """JSON and sound of each recording, oldest first."""
    paths = sorted(server.folder.glob("recordings/*/[!.]*.json"), key=lambda p: p.stem.partition("_")[2])
    return [(json.loads(path.read_text()), path.with_suffix(".wav")) for path in paths]


def wait_until(holds: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)


if __name__ == "__main__":
    main()
