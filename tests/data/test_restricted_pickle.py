"""Published pickles are read; pickles that call anything are refused before it happens."""

import io
import os
import pickle

import numpy as np
import pytest

from offsites_jax.data import restricted_pickle
from offsites_jax.errors import DamagedDataError

# A pickle as Python 2 with NumPy 1 wrote CIFAR's: protocol 2, eight-bit text, `numpy.core`.
PYTHON_2 = (
    b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftbU\x06labels](K\x07K\x09eu."
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_as_it_was(protocol):
    shared = np.arange(6, dtype=">i4").reshape(2, 3)
    value = {
        b"data": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "text": np.array(["a", "äöü"]),
        "empty": np.zeros((0, 5), np.float32),
        "nested": [(1, 2.5, None, True), {"x": shared}, {3}, b"bytes"],
        "scalar": np.float32(1.5),
        "dtype": np.dtype("<f8"),
        "shared": shared,
    }
    found = restricted_pickle.loads(pickle.dumps(value, protocol))
    assert found.keys() == value.keys()
    for key in (b"data", "columns", "text", "empty", "shared"):
        assert found[key].dtype == value[key].dtype
        np.testing.assert_array_equal(found[key], value[key])
    assert found["nested"][0] == (1, 2.5, None, True)
    assert found["nested"][2:] == [{3}, b"bytes"]
    assert found["nested"][1]["x"] is found["shared"]
    assert found["scalar"] == np.float32(1.5)
    assert found["dtype"] == np.float64


def test_what_python_2_wrote():
    found = restricted_pickle.loads(PYTHON_2, encoding="bytes")
    assert found[b"labels"] == [7, 9]
    np.testing.assert_array_equal(found[b"data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8))
    np.testing.assert_array_equal(found[b"data"], pickle.loads(PYTHON_2, encoding="bytes")[b"data"])


class Calls:
    """Pickled as a call of anything."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (os.system, "touch {}"),
        (eval, "open({!r}, 'w')"),
        (exec, "open({!r}, 'w')"),
        (os.mkdir, "{}"),
        (np.fromfile, "{}"),
    ],
)
def test_a_call_is_refused_and_never_made(tmp_path, protocol, function, argument):
    mark = tmp_path / "made"
    hostile = pickle.dumps({b"data": Calls(function, argument.format(str(mark)))}, protocol)
    with pytest.raises(DamagedDataError, match="wants to call"):
        restricted_pickle.loads(hostile, encoding="bytes")
    assert not mark.exists()


def test_the_way_around_through_getattr_is_refused():
    with pytest.raises(DamagedDataError, match=r"wants to call builtins\.getattr"):
        restricted_pickle.loads(pickle.dumps(Calls(getattr, "text", "upper")))
    nested = b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93."
    with pytest.raises(DamagedDataError, match=r"wants to call numpy\.ndarray\.dump"):
        restricted_pickle.loads(nested)


def array_pickle(shape, raw, name="u1", state=(3, "|", None, None, None, -1, -1, 0)):
    """A pickle of one array, saying whatever one likes."""

    class Dtype:
        def __reduce__(self):
            return np.dtype, (name, False, True), state

    class Values:
        def __reduce__(self):
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, Dtype(), False, raw)

    return pickle.dumps(Values())


def test_arrays_that_lie_are_refused():
    assert restricted_pickle.loads(array_pickle((2, 1), b"ab")).tolist() == [[97], [98]]
    records = (3, "|", None, ("a",), {"a": (np.dtype("u8"), 0)}, 8, 8, 0)
    wrong = {
        "3 bytes for an array": array_pickle((2, 1), b"abc"),
        "2 bytes for an array": array_pickle((10**12,), b"ab"),
        "array of 'O'": array_pickle((1,), b"12345678", "O"),
        "array of 'V8'": array_pickle((1,), b"12345678", "V8"),
        "array of records": array_pickle((1,), b"12345678", "u8", records),
    }
    for message, data in wrong.items():
        with pytest.raises(DamagedDataError, match=message):
            restricted_pickle.loads(data)


def test_huge_promises_cost_nothing():
    huge = Calls(np._core.multiarray._reconstruct, np.ndarray, (10**15,), b"b")
    with pytest.raises(DamagedDataError, match="without values"):
        restricted_pickle.loads(pickle.dumps(huge))
    with pytest.raises(DamagedDataError, match="wants to call"):
        restricted_pickle.loads(pickle.dumps(Calls(bytearray, 10**15)))


def test_damaged_and_twisted_pickles_are_one_line():
    whole = pickle.dumps({"data": np.arange(100)})
    stream = io.BytesIO()
    pickle.Pickler(stream).dump(list(range(3)))
    loop = []
    loop.append(loop)
    for data in (b"", whole[:50], b"no pickle", stream.getvalue()[:-2], pickle.dumps(loop)):
        with pytest.raises(DamagedDataError) as caught:
            restricted_pickle.loads(data)
        assert "\n" not in str(caught.value)


def test_shared_parts_are_not_multiplied():
    value = [1]
    for _ in range(30):
        value = [value, value]
    found = restricted_pickle.loads(pickle.dumps(value))
    assert found[0] is found[1]
