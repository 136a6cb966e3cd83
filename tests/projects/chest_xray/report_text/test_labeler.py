"""What the labeler makes of sentences written for these tests, and what it must never take long over."""

import re

import pytest

from offsites_jax.projects.chest_xray.report_text import lexicon, mentions, sections
from offsites_jax.projects.chest_xray.report_text.labeler import Policy, label

NORMAL = (
    "The lungs are clear. The heart is normal in size.",
    "Lungs are clear of consolidation, effusion, and edema.",
    "Neither an effusion nor a pneumothorax is seen.",
    "No pneumothorax, effusion or consolidation.",
    "No focal consolidation, large pleural effusion, or pneumothorax identified.",
    "There is no evidence of pneumonia.",
    "The heart is not enlarged.",
    "The effusion has resolved.",
    "Pneumothorax is no longer seen.",
    "Pleural effusion: none.",
    "Free of infiltrate. Absence of edema.",
    "Negative for fracture.",
    "Mediastinal contours are within normal limits.",
    "Heart size at the upper limits of normal.",
    "Normal chest.",
    "No acute cardiopulmonary process.",
    "If there is concern for a nodule, CT is advised. Lungs clear.",
    "Chest: lungs clear.\nLeft knee. Severe degenerative changes.",
)
ABNORMAL = (
    "No pneumothorax. Effusion is present.",
    "Not without effusion.",
    "No change in the effusion.",
    "No increase in the effusion.",
    "Stable cardiomegaly.",
    "No effusion, but there is cardiomegaly.",
    "No effusion; degenerative changes of the spine.",
    "No pneumothorax, small left pleural effusion.",
    "No pneumothorax and a small effusion.",
    "Lungs are clear, although a nodule is seen.",
    "The lungs are not clear.",
    "The heart is mildly enlarged.",
    "Low lung volumes.",
    "Compression fracture of T11. Lungs clear.",
    "Opacity likely represents atelectasis.",
    "Blunting of the costophrenic angle.",
    "Left knee. Normal.\nChest. Right effusion.",
)
UNCERTAIN = (
    "Possible pneumonia.",
    "Cannot exclude pneumonia.",
    "Pneumonia cannot be excluded.",
    "Questionable nodule versus vessel.",
    "No new opacity.",
)


def statuses(text):
    return {(piece.observation, piece.status) for piece in label(text).evidence}


@pytest.mark.parametrize("text", NORMAL)
def test_what_is_normal(text):
    assert label(text).decision == "normal", label(text).evidence


@pytest.mark.parametrize("text", ABNORMAL)
def test_what_is_abnormal(text):
    assert label(text).decision == "abnormal", label(text).evidence


@pytest.mark.parametrize("text", UNCERTAIN)
def test_what_is_uncertain(text):
    assert label(text).decision == "uncertain", label(text).evidence


@pytest.mark.parametrize("text", ["", "  \n ", "XXXX", "INDICATION: pneumonia?"])
def test_nothing_to_read_is_unreadable_and_says_so(text):
    found = label(text)
    assert found.decision == "unreadable"
    assert found.reason
    assert set(found.findings.values()) == {None}


def test_only_findings_and_impression_are_read_unless_told():
    text = (
        "INDICATION: Rule out pneumonia.\nCOMPARISON: Effusion.\nFINDINGS: Clear lungs.\nIMPRESSION: Normal."
    )
    assert label(text).decision == "normal"
    assert label(text, Policy(sections=("comparison", "findings"))).decision == "abnormal"
    assert (
        label("FINDINGS: Clear lungs. IMPRESSION: Edema.", Policy(sections=("findings",))).decision
        == "normal"
    )
    assert label("findings\nHeart normal.\nimpression\nEdema.").decision == "abnormal"
    assert label("Indication: rule out pneumonia. Findings: Lungs clear.").decision == "normal"
    assert label("Reason: edema? Impression: Effusion.").evidence[0].observation == "effusion"


def test_policy_decides_about_devices_operations_and_technique():
    device, operation, technique = "Left pacemaker.", "Prior sternotomy.", "The patient is rotated."
    clear = " Lungs clear."
    assert label(device + clear).decision == "abnormal"
    assert label(device + clear, Policy(devices=False)).decision == "normal"
    assert label(operation + clear).decision == "normal"
    assert label(operation + clear, Policy(postoperative=True)).decision == "abnormal"
    assert label(technique + clear).decision == "normal"
    assert label(technique + clear, Policy(technical=True)).decision == "abnormal"


def test_evidence_points_into_the_report_whatever_its_spacing():
    text = "FINDINGS:\n  No  evidence of\n pleural\t effusion.  Mild\nCARDIOMEGALY.\nIMPRESSION: İ Edema."
    found = label(text)
    assert all(text[piece.start : piece.end] == piece.text for piece in found.evidence)
    assert [(p.text, p.status) for p in found.evidence] == [
        ("effusion", "absent"),
        ("CARDIOMEGALY", "present"),
        ("Edema", "present"),
    ]
    assert found.evidence[0].cue.startswith("negate/")


def test_table_present_beats_doubtful_beats_absent():
    text = "Possible effusion. No effusion. Edema. Possible edema. No pneumothorax."
    found = label(text).findings
    assert tuple(found) == lexicon.COLUMNS
    assert (found["Pleural Effusion"], found["Edema"], found["Pneumothorax"]) == (-1, 1, 0)
    assert found["Fracture"] is None
    assert found["No Finding"] is None


def test_no_finding_allows_for_devices_only():
    assert label("Pacemaker. No effusion.").findings["No Finding"] == 1
    assert label("Scoliosis. No effusion.").findings["No Finding"] is None
    assert label("Possible effusion.").findings["No Finding"] is None


def test_long_reports_are_not_read():
    body = "Lungs clear. "
    assert label(body * 1500).decision == "normal"
    assert label(body * 1600).decision == "unreadable"
    assert "20000" in label("é" * 10_001).reason


@pytest.mark.parametrize(
    "text", ["no " * 6600, "\n" * 19_999, "heart is not " * 1500, "1. " * 6600, "A:" * 9999]
)
def test_strange_reports_are_labelled_like_any(text):
    assert label(text).decision in ("normal", "unreadable")


def repeats(tree, inside=1):
    """Every repeat of a parsed pattern, with the largest count around it."""
    for kind, about in tree:
        name = str(kind)
        if "REPEAT" in name:
            low, high, body = about
            yield inside, int(high), low
            yield from repeats(body, max(inside, int(high)))
        elif name == "SUBPATTERN":
            yield from repeats(about[-1], inside)
        elif name == "BRANCH":
            for part in about[1]:
                yield from repeats(part, inside)
        elif name.startswith("ASSERT"):
            yield from repeats(about[1], inside)


def test_no_repeat_holds_another_and_phrases_have_bounds():
    phrases = [bucket.pattern for bucket in lexicon.read_lexicon().buckets.values()]
    others = [
        p for module in (mentions, sections) for p in vars(module).values() if isinstance(p, re.Pattern)
    ]
    for pattern in [*phrases, *others]:
        for around, count, _ in repeats(re._parser.parse(pattern.pattern, pattern.flags & ~re.UNICODE)):
            assert min(around, count) <= 1, pattern.pattern[:80]
            assert count <= 100 or pattern not in phrases, pattern.pattern[:80]


def test_the_walk_notices_a_repeat_in_a_repeat():
    found = list(repeats(re._parser.parse("(?:a{0,9} ){0,5}")))
    assert any(min(around, count) > 1 for around, count, _ in found)


def test_a_phrase_matches_from_word_to_word_and_the_longest_wins():
    book = lexicon.build_lexicon(
        {name: [] for name in lexicon.CUES} | {"filler": ["is"], "negate": ["no"], "affirm": ["no change"]},
        {"mass": {"phrases": ["mass", "mass* effect", "heart ~ large"]}},
        {"normal": []},
    )
    found = [
        (rule.action, match[0]) for rule, match in book.scan("no massage, no change. masses effect. mass")
    ]
    assert found == [
        ("negate", "no"),
        ("affirm", "no change"),
        ("mention", "masses effect"),
        ("mention", "mass"),
    ]
    assert [match[0] for _, match in book.scan("heart is is large, heart was large")] == ["heart is is large"]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"phrases": ["(?:a|b)c"]}, "two plain letters"),
        ({"column": "Heart", "phrases": []}, "no CheXpert column"),
        ({"phrase": ["ab"]}, "no list"),
    ],
)
def test_a_wrong_lexicon_is_refused(about, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        lexicon.build_lexicon(
            {name: [] for name in lexicon.CUES} | {"filler": ["is"]}, {"x": about}, {"normal": []}
        )


def test_sentences_do_not_end_in_titles_numbers_and_lists():
    text = "1. Seen by Dr. Low at T11. level; 3.5 cm mass.No edema.\n2. End"
    parts = [text[slice(*s)] for s in sections.sentences(text, sections.Span(0, len(text)))]
    assert parts == ["1. Seen by Dr. Low at T11. level", "3.5 cm mass", "No edema", "2. End"]
