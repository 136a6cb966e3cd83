"""Every published layout, in small copies built byte by byte, and copies that something is wrong with."""

import gzip
import io
import os
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.one_class.readers.cat_dog import read_cat_dog, short_side
from offsites_jax.projects.one_class.readers.celeba import face, open_celeba
from offsites_jax.projects.one_class.readers.cifar import read_cifar10, read_cifar100
from offsites_jax.projects.one_class.readers.digits import read_digits
from offsites_jax.projects.one_class.readers.faces import open_faces
from offsites_jax.projects.one_class.readers.fashion_mnist import read_fashion_mnist

RNG = np.random.default_rng(0)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ATTRIBUTES = ("5_o_Clock_Shadow", "Bald", "Eyeglasses", "Young")


def cifar_rows(count):
    """Pixels as [n, 32, 32, 3], and as the files have them: planes of red, green and blue."""
    images = RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    rows = np.stack(
        [np.concatenate([image[..., channel].ravel() for channel in range(3)]) for image in images]
    )
    return images, rows


def write_cifar10(folder, version):
    folder.mkdir(parents=True)
    images, labels = {}, {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        images[name], rows = cifar_rows(4)
        labels[name] = RNG.integers(0, 10, 4).tolist()
        if version == "py":
            batch = {b"batch_label": b"x", b"labels": labels[name], b"data": rows, b"filenames": [b"a"] * 4}
            (folder / name).write_bytes(pickle.dumps(batch, 2))
        else:
            flat = b"".join(
                bytes([label]) + row.tobytes() for label, row in zip(labels[name], rows, strict=True)
            )
            (folder / f"{name}.bin").write_bytes(flat)
    if version == "py":
        names = {b"label_names": [name.encode() for name in CIFAR10], b"num_vis": 3072}
        (folder / "batches.meta").write_bytes(pickle.dumps(names, 2))
    else:
        (folder / "batches.meta.txt").write_text("\n".join(CIFAR10) + "\n\n")
    return images, labels


@pytest.mark.parametrize("version", ["py", "bin"])
def test_cifar10_in_both_versions(tmp_path, version):
    folder = tmp_path / f"cifar-10-batches-{version}"
    images, labels = write_cifar10(folder, version)
    for root in (tmp_path, folder):
        train, test = read_cifar10(root, "train"), read_cifar10(root, "test")
        parts = [f"data_batch_{number}" for number in range(1, 6)]
        np.testing.assert_array_equal(train.source.images, np.concatenate([images[part] for part in parts]))
        np.testing.assert_array_equal(train.numbers, np.concatenate([labels[part] for part in parts]))
        np.testing.assert_array_equal(test.source.images, images["test_batch"])
        assert test.names == CIFAR10
        assert test.number("ship") == 8
        assert test.source.kinds == tuple(CIFAR10[label] for label in labels["test_batch"])


@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("fine", [True, False])
def test_cifar100_counts_coarse_or_fine_classes(tmp_path, version, fine):
    folder = tmp_path / f"cifar-100-{version}"
    folder.mkdir()
    images, rows = cifar_rows(3)
    fines, coarses = [99, 0, 7], [19, 3, 3]
    names = {"fine": [f"f{n}" for n in range(100)], "coarse": [f"c{n}" for n in range(20)]}
    for split in ("train", "test"):
        if version == "python":
            batch = {b"fine_labels": fines, b"coarse_labels": coarses, b"data": rows}
            (folder / split).write_bytes(pickle.dumps(batch, 2))
        else:
            flat = b"".join(
                bytes([c, f]) + row.tobytes() for c, f, row in zip(coarses, fines, rows, strict=True)
            )
            (folder / f"{split}.bin").write_bytes(flat)
    encoded = {f"{kind}_label_names".encode(): [n.encode() for n in all_] for kind, all_ in names.items()}
    (folder / "meta").write_bytes(pickle.dumps(encoded, 2))
    for kind, all_ in names.items():
        (folder / f"{kind}_label_names.txt").write_text("\n".join(all_))
    found = read_cifar100(tmp_path, "test", fine=fine)
    np.testing.assert_array_equal(found.numbers, fines if fine else coarses)
    np.testing.assert_array_equal(found.source.images, images)
    assert found.names == tuple(names["fine" if fine else "coarse"])


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_hostile_cifar_is_named_and_does_nothing(tmp_path):
    write_cifar10(tmp_path / "cifar-10-batches-py", "py")
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    Hostile.mark = tmp_path / "made"
    file.write_bytes(pickle.dumps({b"data": Hostile(), b"labels": []}, 2))
    with pytest.raises(DamagedDataError, match="wants to call") as caught:
        read_cifar10(tmp_path, "test")
    assert str(file) in str(caught.value)
    assert not Hostile.mark.exists()


def test_damaged_cifar_files_are_named(tmp_path):
    py, binary = tmp_path / "a" / "cifar-10-batches-py", tmp_path / "b" / "cifar-10-batches-bin"
    write_cifar10(py, "py")
    write_cifar10(binary, "bin")
    rows = np.zeros((2, 3072), np.uint8)
    wrong = {
        "not a whole pickle": b"\x80\x02}",
        "not a dict": pickle.dumps([1]),
        "'data' is not": pickle.dumps({b"data": rows[:, :-1], b"labels": [1, 2]}),
        "'labels' is not": pickle.dumps({b"data": rows, b"labels": [1]}),
        "below 0": pickle.dumps({b"data": rows, b"labels": [1, -2]}),
        "only 10 class names": pickle.dumps({b"data": rows, b"labels": [1, 10]}),
    }
    for message, data in wrong.items():
        (py / "test_batch").write_bytes(data)
        with pytest.raises(DamagedDataError, match=message) as caught:
            read_cifar10(py, "test")
        assert str(py) in str(caught.value)
    (binary / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DamagedDataError, match=r"test_batch\.bin: 3072 bytes are no whole number of rows"):
        read_cifar10(binary, "test")
    (binary / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin: no such file"):
        read_cifar10(binary, "train")
    with pytest.raises(UserError, match="no split 'val'"):
        read_cifar10(binary, "val")
    with pytest.raises(UserError, match="holds neither cifar-10-batches-py nor cifar-10-batches-bin"):
        read_cifar10(tmp_path, "test")
    with pytest.raises(UserError, match="no class 'shp'; known: airplane"):
        read_cifar10(tmp_path / "a", "train").number("shp")


def write_idx(file, array):
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    file.write_bytes(gzip.compress(data))


def test_fashion_mnist_is_padded_to_32(tmp_path):
    images = RNG.integers(1, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([9, 0, 3, 3, 1], np.uint8)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels)
    found = read_fashion_mnist(tmp_path, "test")
    assert found.source.images.shape == (5, 32, 32, 1)
    np.testing.assert_array_equal(found.source.images[:, 2:30, 2:30, 0], images)
    assert found.source.images.sum() == images.sum(dtype=np.int64)
    assert found.number("Ankle boot") == 9
    assert found.source.kinds[1] == "T-shirt/top"
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: no such file"):
        read_fashion_mnist(tmp_path, "train")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", labels[:-1])
    with pytest.raises(DamagedDataError, match="for 4 labels"):
        read_fashion_mnist(tmp_path, "test")


def jpeg(width, height, grey=100):
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (grey, grey, grey)).save(stream, "JPEG")
    return stream.getvalue()


def test_cats_and_dogs_are_divided_as_published(tmp_path):
    (tmp_path / "train").mkdir()
    for number in range(12):
        for kind in ("cat", "dog"):
            (tmp_path / "train" / f"{kind}.{number}.jpg").write_bytes(jpeg(8, 8))
    # The published recipe, written down independently: the global generator, file names sorted as text.
    cats, dogs = (sorted(f"{kind}.{number}.jpg" for number in range(12)) for kind in ("cat", "dog"))
    np.random.seed(0)
    of_cats, of_dogs = np.random.permutation(12), np.random.permutation(12)
    expected = {
        "train": [cats[i] for i in of_cats[:9]] + [dogs[i] for i in of_dogs[:9]],
        "test": [cats[i] for i in of_cats[9:]] + [dogs[i] for i in of_dogs[9:]],
    }
    for split, names in expected.items():
        found = read_cat_dog(tmp_path, split, images=12, train=9)
        assert found.source.names == tuple(f"train/{name}" for name in names)
        assert [found.names[number] for number in found.numbers] == [name[:3] for name in names]
    with pytest.raises(UserError, match="has 12 cats and 12 dogs, not 12500 of each"):
        read_cat_dog(tmp_path, "train")
    with pytest.raises(UserError, match="no such folder"):
        read_cat_dog(tmp_path / "train", "train")


@pytest.mark.parametrize(("height", "width"), [(60, 100), (100, 60)])
def test_the_short_side_is_resized_and_the_centre_kept(height, width):
    # Stripes of 10 pixels across the long side, so that the mean of a block says where it was.
    y, x = np.mgrid[:height, :width]
    image = np.repeat(((x if width > height else y) // 10 * 10)[..., None], 3, -1).astype(np.uint8)
    found = short_side(image, 6)
    assert found.shape == (6, 6, 3)
    line = found[0, :, 0] if width > height else found[:, 0, 0]
    np.testing.assert_array_equal(line, np.arange(2, 8) * 10)
    assert short_side(image[:50, :50], 6).shape == (6, 6, 3)


def write_celeba(folder, partition=(0, 0, 0, 1, 2, 2), glasses=(1, -1, -1, 1, -1, 1)):
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, len(partition) + 1)]
    lines = [str(len(names)), " ".join(ATTRIBUTES)]
    for name, has in zip(names, glasses, strict=True):
        (folder / "img_align_celeba" / name).write_bytes(jpeg(178, 218))
        lines.append(f"{name} -1  1 {has:>2} -1")
    (folder / "list_attr_celeba.txt").write_text("\r\n".join(lines) + "\n")
    rows = [f"{name} {number}" for name, number in zip(names, partition, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    return folder


def test_celeba_finds_the_attribute_by_name(tmp_path):
    root = write_celeba(tmp_path)
    found = {split: open_celeba(root, "Eyeglasses", split) for split in ("train", "validation", "test")}
    assert found["train"].names == ("img_align_celeba/000002.jpg", "img_align_celeba/000003.jpg")
    assert found["validation"].labels.tolist() == [1]
    assert found["test"].labels.tolist() == [0, 1]
    assert found["test"].kinds == ("good", "Eyeglasses")
    assert open_celeba(root, "Bald", "test").labels.tolist() == [1, 1]
    assert open_celeba(root, "Young", "train").labels.tolist() == [0, 0, 0]
    with pytest.raises(UserError, match="no attribute 'Glasses'; did you mean Eyeglasses"):
        open_celeba(root, "Glasses", "test")


def test_celebas_tables_have_to_agree(tmp_path):
    root = write_celeba(tmp_path)
    attributes, partition = root / "list_attr_celeba.txt", root / "list_eval_partition.txt"
    whole = {file: file.read_text() for file in (attributes, partition)}
    wrong = [
        (attributes, whole[attributes].replace("6", "7", 1), "lists 6 faces instead of 7"),
        (attributes, "\n".join(whole[attributes].splitlines()[2:]), "number of faces"),
        (attributes, whole[attributes].replace("000002.jpg -1", "000002.jpg"), r"celeba\.txt:4: not a file"),
        (partition, whole[partition].replace("000004.jpg 1", "000004.jpg 3"), "partition.txt:4"),
        (partition, whole[partition].replace("000004.jpg", "000014.jpg"), "no 000004.jpg"),
    ]
    for file, text, message in wrong:
        file.write_text(text)
        with pytest.raises(DamagedDataError, match=message):
            open_celeba(root, "Eyeglasses", "test")
        file.write_text(whole[file])
    partition.unlink()
    with pytest.raises(UserError, match=r"partition\.txt: no such file"):
        open_celeba(root, "Eyeglasses", "test")


def test_a_face_is_cut_as_published():
    image = RNG.integers(0, 256, (218, 178, 3), dtype=np.uint8)
    np.testing.assert_array_equal(face(image, 158), image[40:198, 10:168])
    flat = np.full((218, 178, 3), 7, np.uint8)
    flat[40:198, 10:168] = 200  # nothing from outside may show
    assert (face(flat, 64) == 200).all()
    with pytest.raises(DamagedDataError, match="of 178 x 200 pixels"):
        face(image[:200], 64)


def test_digits_alternate():
    from sklearn.datasets import load_digits

    data = load_digits()
    train, test = read_digits("train"), read_digits("test")
    assert (len(train.source), len(test.source)) == (899, 898)
    np.testing.assert_array_equal(train.numbers, data.target[::2])
    np.testing.assert_array_equal(test.source.images[..., 0], np.round(data.images[1::2] * 15.9375))


def test_raw_digits_score_as_scikit_learn_measures():
    """Figures of kNN on the pixels of this split, measured with scikit-learn: 0.9949 mean over classes."""
    from sklearn.metrics import roc_auc_score

    train, test = read_digits("train"), read_digits("test")

    def unit(classes):
        flat = classes.source.images.reshape(len(classes.numbers), -1).astype(float)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    similar = unit(test) @ unit(train).T
    scores = [1 - similar[:, train.numbers == normal].max(axis=1) for normal in range(10)]
    areas = [roc_auc_score(test.numbers != normal, score) for normal, score in enumerate(scores)]
    assert np.mean(areas) == pytest.approx(0.9949, abs=5e-4)


def test_faces_come_before_the_others():
    train, test = open_faces("train"), open_faces("test")
    assert train.images.shape == (70, 25, 25, 1)
    assert train.labels.sum() == 0
    assert np.bincount(test.labels).tolist() == [30, 100]
    assert not set(train.names) & set(test.names)
    assert test.images.max() > 200  # stored as 0 to 1
