"""Patients stay together, splits stay the same, and every kind of leak is found."""

import itertools

import cv2
import numpy as np
import pytest

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.cohorts import leakage, splits
from offsites_jax.projects.chest_xray.intake import identity
from offsites_jax.projects.chest_xray.tables.case import Case

KEY = bytes(range(32))


def cases(patients=3000, images=2, site="a"):
    return [
        Case(f"{p}_{i}.png", str(p), site=site, label=p % 4 == 0)
        for p in range(patients)
        for i in range(images)
    ]


def split_of(found):
    return {(case.site, case.patient_id): case.split for case in found}


def test_positions_are_the_salted_digest():
    # sha256 of length and text of "", "a" and "12" in turn, its first 53 bits as a fraction.
    import hashlib

    message = b"\0\0\0\0" + b"\0\0\0\x01a" + b"\0\0\0\x0212"
    expected = (int(hashlib.sha256(message).hexdigest()[:16], 16) >> 11) / 2**53
    assert splits.position("12", "a") == splits.position(" 12 ", "a") == expected
    assert len({splits.position("12", "a"), splits.position("2", "a1"), splits.position("12", "a", "s")}) == 3


def test_patients_stay_together_and_fractions_are_met():
    found = splits.assign(cases())
    assert not leakage.patient_leaks(found)
    counts = {share.split: share for share in splits.shares(found)}
    assert sum(share.patients for share in counts.values()) == 3000
    for name, fraction in splits.FRACTIONS.items():
        spread = 4 * np.sqrt(3000 * fraction * (1 - fraction))
        assert abs(counts[name].patients - 3000 * fraction) < spread
        assert counts[name].images == 2 * counts[name].patients


def test_splits_do_not_depend_on_company_or_order():
    all_of_them, some = cases(200), cases(200)[::-3]
    whole, part = split_of(splits.assign(all_of_them)), split_of(splits.assign(some))
    assert part.items() <= whole.items()
    assert split_of(splits.assign(all_of_them, salt="other")) != whole
    elsewhere = split_of(splits.assign(cases(200, site="b")))
    assert [elsewhere["b", p] for _, p in whole] != list(whole.values())


def test_shares_of_findings_count_known_ones_only():
    found = [
        Case("a", "1", split="x", label=True, findings={"Mass": True, "Edema": None}),
        Case("b", "1", split="x", label=None, findings={"Mass": False}),
    ]
    (share,) = splits.shares(found)
    assert (share.patients, share.images, share.abnormal, share.findings) == (1, 2, 1.0, {"Mass": 0.5})


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"a": 1.5, "b": -0.5}])
def test_fractions_have_to_add_up(fractions):
    with pytest.raises(UserError, match="add up"):
        splits.assign(cases(2), fractions)


def test_patients_without_number_are_refused():
    with pytest.raises(UserError, match="patient_id"):
        splits.assign([Case("a.png", " ")])


def picture(seed, side=96):
    """Smooth noise, so that its low frequencies are its own."""
    noise = np.random.default_rng(seed).normal(size=(12, 12))
    image = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.uint8(255 * (image - image.min()) / (image.max() - image.min()))


def save(folder, name, image):
    cv2.imwrite(str(folder / name), image)


def test_audit_finds_patients_equal_files_and_equal_pictures(tmp_path):
    save(tmp_path, "a.png", picture(0))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    resized = cv2.resize(picture(0), (70, 70), interpolation=cv2.INTER_AREA)
    save(tmp_path, "c.png", np.uint16(resized) * 200 + 500)  # other size, brightness, contrast and depth
    save(tmp_path, "d.png", picture(1))
    save(tmp_path, "e.png", picture(2))
    splits_of = {
        "a": ("1", "train"),
        "b": ("2", "test"),
        "c": ("3", "tune"),
        "d": ("4", "train"),
        "e": ("4", "test"),
    }
    found = [Case(f"{name}.png", patient, split=split) for name, (patient, split) in splits_of.items()]
    leaks = {(leak.kind, leak.first[0], leak.second[0]) for leak in leakage.audit(found, tmp_path)}
    assert leaks == {("patient", "d", "e"), ("bytes", "a", "b"), ("near", "a", "c"), ("near", "b", "c")}
    assert {leak.kind for leak in leakage.audit(found)} == {"patient"}


def test_same_pictures_within_a_split_are_no_leak(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path, name, picture(0))
    assert not leakage.audit([Case("a.png", "1", split="x"), Case("b.png", "2", split="x")], tmp_path)


@pytest.mark.parametrize("near", [0, 2, 4])
def test_near_pairs_are_all_those_that_comparing_everything_finds(near):
    draw = np.random.default_rng(near)
    hashes = draw.integers(0, 2**64, 300, np.uint64)
    for row in range(0, 300, 3):  # neighbours at every distance from 0 to 6
        flipped = draw.choice(64, size=row % 7, replace=False)
        hashes[row + 1] = hashes[row] ^ np.bitwise_or.reduce(
            np.uint64(1) << flipped.astype(np.uint64), initial=np.uint64(0)
        )
    found = [Case(str(row), str(row), split="ab"[row % 2]) for row in range(300)]
    expected = {
        (str(a), str(b))
        for a, b in itertools.combinations(range(300), 2)
        if (a + b) % 2 and int(hashes[a] ^ hashes[b]).bit_count() <= near
    }
    assert {leak[1:3] for leak in leakage.near_leaks(found, hashes, near)} == expected
    assert expected


def test_a_thousand_blank_pictures_are_one_leak():
    found = [Case(str(row), str(row), split="ab"[row % 2]) for row in range(1000)]
    assert len(leakage.near_leaks(found, np.zeros(1000, np.uint64))) == 1


def test_audit_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"a\.png: has no split"):
        leakage.audit([Case("a.png", "1")])
    with pytest.raises(UserError, match="no such file"):
        leakage.audit([Case("a.png", "1", split="x")], tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DamagedDataError, match="decoded"):
        leakage.audit([Case("a.png", "1", split="x")], tmp_path)
    with pytest.raises(UserError, match="near"):
        leakage.near_leaks([], np.zeros(0, np.uint64), 5)


def test_pseudonyms_are_steady_keyed_and_by_site(tmp_path, monkeypatch):
    name = identity.pseudonym(KEY, "12", "a")
    assert name == identity.pseudonym(KEY, " 12 ", "a")
    assert len(name) == 20
    others = [
        identity.pseudonym(KEY[::-1], "12", "a"),
        identity.pseudonym(KEY, "12", "b"),
        identity.pseudonym(KEY, "2", "a1"),
    ]
    assert len({name, *others}) == 4
    assert name != "12"
    (tmp_path / "key").write_bytes(KEY.hex().encode() + b"\n")
    monkeypatch.setenv(identity.KEY_VARIABLE, KEY.hex())
    assert identity.read_key(tmp_path / "key") == identity.read_key() == KEY.hex().encode()


def test_keys_have_to_be_there_and_long_enough(tmp_path, monkeypatch):
    monkeypatch.delenv(identity.KEY_VARIABLE, raising=False)
    (tmp_path / "short").write_bytes(b"secret\n")
    for path in (None, tmp_path / "short", tmp_path / "none"):
        with pytest.raises(UserError, match="openssl"):
            identity.read_key(path)
    with pytest.raises(UserError, match="bytes"):
        identity.pseudonym(b"short", "12")
    with pytest.raises(UserError, match="empty"):
        identity.pseudonym(KEY, " ")
