"""Collections on disk: consent, half-done deletions, damage, and what goes into a manifest."""

import dataclasses
import hashlib
import json
import shutil
import uuid

import pytest
import tyro

from offsites_jax.data.audio.quality import Quality
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.collect import commands
from offsites_jax.projects.euphonia.collect.collection import Collection, create_collection
from offsites_jax.projects.euphonia.collect.consent import SAMPLE, Consent, read_consent
from offsites_jax.projects.euphonia.collect.export import export_rows
from offsites_jax.projects.euphonia.collect.files import append_json, read_json_lines
from offsites_jax.projects.euphonia.collect.phrases import shipped_phrases
from offsites_jax.projects.euphonia.collect.prompts import PromptPlan, build_prompts
from offsites_jax.projects.euphonia.collect.uploads import Refused, Uploads
from offsites_jax.projects.euphonia.manifest import read_manifest

FORM = read_consent(SAMPLE)


class Speaker:
    """A speaker of a collection who records without a server."""

    def __init__(self, collection, make_sound, form=FORM):
        self.make_sound = make_sound
        self.collection = collection
        self.form = form
        self.id = collection.add_speaker(build_prompts(shipped_phrases(), "s", PromptPlan(5, 0)))
        self.prompts = list(collection.prompts(self.id))
        collection.agree(self.id, form)

    def ticket(self, data, prompt=0):
        return {
            "id": str(uuid.uuid4()), "prompt_id": self.prompts[prompt], "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(), "local_date": "2026-03-01T10:20:30", "utc_offset": 0,
        }  # fmt: skip

    def record(self, prompt=0, **changes):
        data = self.make_sound(**changes)
        uploads = Uploads(self.collection, self.form)
        ticket = self.ticket(data, prompt)
        uploads.begin(self.id, ticket)
        with uploads.open(self.id, ticket["id"], 0) as receiver:
            receiver.write(data)
        return uploads.finish(self.id, ticket["id"]).metadata


@pytest.fixture
def collection(tmp_path):
    return create_collection(tmp_path / "study")


@pytest.fixture
def speaker(collection, make_sound):
    return Speaker(collection, make_sound)


def names(exported):
    return [row["audio"].rpartition("/")[2] for row in exported.rows]


# Export


def test_a_manifest_has_what_was_recorded(speaker, collection, capsys):
    stored = [speaker.record(0), speaker.record(1, seconds=2.0)]
    commands.export(str(collection.folder))
    assert "2 recordings; left out: 0 without consent" in capsys.readouterr().out
    found = read_manifest(collection.folder / "manifest.jsonl")
    assert [utterance.text for utterance in found] == [metadata["prompt"] for metadata in stored]
    assert [utterance.duration_s for utterance in found] == [1.5, 2.0]
    assert {utterance.speaker for utterance in found} == {speaker.id}
    assert {utterance.transcript_status for utterance in found} == {"prompt_assumed"}
    assert [utterance.prompt_id for utterance in found] == speaker.prompts[:2]
    assert {utterance.sample_rate for utterance in found} == {16000}
    assert set(found[0].quality) == {field.name for field in dataclasses.fields(Quality)}
    domains = collection.prompts(speaker.id)
    assert [utterance.domain for utterance in found] == [domains[u.prompt_id].domain for u in found]


def test_the_command_line_exports(speaker, collection):
    speaker.record(0)
    speaker.record(0, seed=1)
    tyro.cli(commands.export, args=[str(collection.folder), "--versions", "all"])
    assert len(read_manifest(collection.folder / "manifest.jsonl")) == 2


def test_a_manifest_elsewhere_still_finds_the_sound(speaker, collection, tmp_path):
    speaker.record()
    commands.export(str(collection.folder), output=str(tmp_path / "all.jsonl"))
    assert len(read_manifest(tmp_path / "all.jsonl")) == 1


def test_the_newest_usable_version_is_taken(speaker, collection):
    first = speaker.record(0)
    second = speaker.record(0, seed=1)
    poor = speaker.record(0, level=0.0)
    assert poor["offsites"]["rating"] == "again"
    exported = export_rows(collection)
    assert names(exported) == [second["name"]]
    assert (exported.poor, exported.superseded, exported.withdrawn) == (1, 1, 0)
    assert names(export_rows(collection, "all")) == [first["name"], second["name"]]
    assert names(export_rows(collection, poor=True)) == [poor["name"]]


def test_what_is_taken_back_is_left_out_for_good(speaker, collection):
    before = speaker.record(0)
    collection.revoke(speaker.id)
    assert export_rows(collection).rows == []
    [path] = collection.folder.glob("recordings/*/*.json")
    assert json.loads(path.read_text())["consents"][0]["revokeTimestamp"] > 0
    with pytest.raises(Refused, match="agreed to first"):
        speaker.record(1)
    collection.agree(speaker.id, FORM)
    after = speaker.record(1)
    for one in (collection, Collection(collection.folder)):
        exported = export_rows(one)
        assert names(exported) == [after["name"]] != [before["name"]]
        assert exported.withdrawn == 1


def test_a_crash_between_speaker_and_recordings_withdraws_all_the_same(speaker, collection):
    """The JSON of the recording may come from a time before the agreement was taken back."""
    speaker.record()
    [path] = collection.folder.glob("recordings/*/*.json")
    early = path.read_bytes()
    collection.revoke(speaker.id)
    path.write_bytes(early)
    exported = export_rows(Collection(collection.folder))
    assert (exported.rows, exported.withdrawn) == ([], 1)


def test_damage_is_listed_and_the_rest_exported(speaker, collection):
    kept, changed, missing, torn = [speaker.record(k) for k in range(4)]
    place = collection.folder / "recordings" / speaker.id
    with (place / changed["name"]).open("r+b") as stream:
        stream.seek(500)
        stream.write(b"\x7f")
    (place / missing["name"]).unlink()
    file = (place / torn["name"]).with_suffix(".json")
    file.write_bytes(file.read_bytes()[:100])
    exported = export_rows(Collection(collection.folder))
    assert names(exported) == [kept["name"]]
    problems = "\n".join(exported.problems)
    assert len(exported.problems) == 3
    assert f"{changed['name']}: is not what was recorded" in problems
    assert f"{missing['name']}: is missing" in problems
    assert "is not valid JSON" in problems


@pytest.mark.parametrize("field", ["prompt", "consents", "offsites"])
def test_metadata_without_a_field_is_damage(speaker, collection, field):
    speaker.record()
    [path] = collection.folder.glob("recordings/*/*.json")
    metadata = json.loads(path.read_text())
    del metadata[field]
    path.write_text(json.dumps(metadata))
    [problem] = export_rows(Collection(collection.folder)).problems
    assert field in problem


# Consent


def test_a_newer_form_asks_again_and_marks_the_older(speaker, collection):
    newer = dataclasses.replace(FORM, version=2, text="More.")
    with pytest.raises(Refused, match="agreed to first"):
        Uploads(collection, newer).begin(speaker.id, speaker.ticket(b"x"))
    collection.agree(speaker.id, newer)
    first, second = collection.consents(speaker.id)
    assert (first["version"], first["superseded"], second["version"]) == (1, True, 2)
    collection.agree(speaker.id, newer)
    assert len(collection.consents(speaker.id)) == 2


def test_forms_are_kept_and_not_changed_behind_a_version(collection):
    collection.keep_form(FORM)
    collection.keep_form(FORM)
    [path] = (collection.folder / "consents").iterdir()
    assert read_consent(path) == FORM
    with pytest.raises(UserError, match="raise its version"):
        collection.keep_form(dataclasses.replace(FORM, text="Something else."))
    collection.keep_form(dataclasses.replace(FORM, version=2, text="Something else."))


def test_forms_are_read(tmp_path):
    file = tmp_path / "form.txt"
    file.write_text("id: home-study\nversion: 3\ntitle: What: this is\n\nOne.\n\nTwo.\n")
    assert read_consent(file) == Consent("home-study", 3, "What: this is", "One.\n\nTwo.")


@pytest.mark.parametrize(
    "text",
    ["", "Just text.", "id: a\nversion: one\ntitle: t\n\nx", "id: a\nversion: 1\n\nx",
     "id: ../a\nversion: 1\ntitle: t\n\nx", "id: a\nversion: 1\ntitle: t\n\n"],
)  # fmt: skip
def test_what_is_no_form_is_refused(tmp_path, text):
    (tmp_path / "form.txt").write_text(text)
    with pytest.raises(UserError, match=r"form\.txt"):
        read_consent(tmp_path / "form.txt")


# Crashes


def test_a_deletion_that_was_cut_short_is_finished(speaker, collection, tmp_path):
    metadata = speaker.record()
    shutil.copytree(collection.folder / "recordings", tmp_path / "copy")
    collection.delete_recording(speaker.id, metadata["name"].removesuffix(".wav"))
    shutil.copytree(tmp_path / "copy", collection.folder / "recordings", dirs_exist_ok=True)
    assert Collection(collection.folder).recordings(speaker.id) == []
    assert not list(collection.folder.rglob("*.wav"))


def test_deleting_a_speaker_that_was_cut_short_is_finished(speaker, collection, tmp_path):
    speaker.record()
    shutil.copytree(collection.folder, tmp_path / "copy")
    collection.delete_speaker(speaker.id)
    shutil.copytree(tmp_path / "copy", collection.folder, dirs_exist_ok=True)
    assert Collection(collection.folder).speakers() == []
    assert not [path for path in collection.folder.rglob("*") if speaker.id in path.name]


def test_a_recording_in_place_without_its_json_is_completed(speaker, collection, make_sound):
    """As after a crash between the two: the page asks again, and nothing is sent twice."""
    data = make_sound()
    uploads, ticket = Uploads(collection, FORM), speaker.ticket(data)
    uploads.begin(speaker.id, ticket)
    stored = json.loads((collection.folder / "uploads" / ticket["id"] / "upload.json").read_text())
    collection.recording_path(speaker.id, stored["name"]).write_bytes(data)
    reopened = Collection(collection.folder)
    assert reopened.recordings(speaker.id) == []
    progress = Uploads(reopened, FORM).begin(speaker.id, ticket)
    assert progress.metadata["name"] == f"{stored['name']}.wav"
    assert not list((collection.folder / "uploads").iterdir())
    assert len(export_rows(reopened).rows) == 1


def test_an_upload_completed_before_a_crash_is_not_taken_twice(speaker, collection):
    metadata = speaker.record()
    left = collection.folder / "uploads" / metadata["offsites"]["uploadId"]
    left.mkdir()
    (left / "upload.json").write_text("{}")
    Uploads(Collection(collection.folder), FORM)
    assert not left.exists()


def test_lines_survive_half_a_line(tmp_path):
    file = tmp_path / "lines.jsonl"
    append_json(file, {"a": 1})
    with file.open("ab") as stream:
        stream.write(b'{"a": 2')
    append_json(file, {"a": 3})
    assert list(read_json_lines(file)) == [{"a": 1}, {"a": 3}]


# Folders


def test_only_the_owner_may_look(collection):
    assert collection.folder.stat().st_mode & 0o077 == 0


def test_folders_with_other_things_are_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear Sir")
    with pytest.raises(UserError, match="no collection"):
        create_collection(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        Collection(tmp_path)


def test_two_recordings_of_one_moment_get_two_names(speaker, collection, monkeypatch):
    monkeypatch.setattr("offsites_jax.projects.euphonia.collect.collection.now_ms", lambda: 1_772_000_000_000)
    first, second = speaker.record(0), speaker.record(1)
    assert first["name"] != second["name"]
    assert second["timestamp"] == first["timestamp"] + 1
