"""Class folders as they come: which class is which, what counts as a picture, and every kind of pixel."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile, features
from test_folders import photo, tree

from minigslora import class_order
from minigslora.datasets import folders, pictures, registry
from minigslora.errors import DataError

# --- the order of the classes ------------------------------------------------------------------------

NUMBERS = ("1", "2", "10", "30")


def numbered(root):
    """Write a class for each number, its images as red as the number."""
    for split, count in (("train", 4), ("test", 2)):
        for name in NUMBERS:
            for i in range(count):
                photo(root / split / name / f"{i}.png", (int(name), 0, 0))
    return root


def reds(split):
    """Return the red of each class's images, by the class's name."""
    shades = split.images[:, 0].float().mean(dim=(1, 2))
    return {c: sorted(set(shades[split.labels == i].tolist())) for i, c in enumerate(split.classes)}


@pytest.mark.parametrize("given", [NUMBERS, tuple(reversed(NUMBERS)), list(NUMBERS)])
def test_classes_are_in_the_order_given_each_with_its_own_images(tmp_path, given):
    root = numbered(tmp_path)
    assert folders.load(root, 8).classes == ("1", "10", "2", "30")
    data = registry.load(root, 8, classes=given)
    assert data.classes == tuple(given)
    for split in (data.train, data.val, data.test):
        assert reds(split) == {name: [float(name)] for name in given}
    assert data.test.labels.bincount().tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("classes.txt", "1\n2\n10\n30\n"),
        ("train/classes.txt", "1\n2\n10\n30"),
        ("classes.txt", "\ufeff1\r\n2\r\n\r\n 10 \r\n30\r\n\r\n"),
    ],
)
def test_a_list_beside_the_folders_says_the_order(tmp_path, place, text):
    root = numbered(tmp_path)
    (root / place).write_bytes(text.encode())
    data = folders.load(root, 8)
    assert data.classes == NUMBERS
    assert reds(data.test)["10"] == [10.0]
    assert folders.load(root, 8, classes=("30", "10", "2", "1")).classes == ("30", "10", "2", "1")


def test_accents_may_be_written_either_way(tmp_path):
    for name in ("zoe\u0308", "ara"):  # as macOS writes folders: e and a mark
        photo(tmp_path / name / "0.png", (1, 2, 3))
        photo(tmp_path / name / "1.png", (1, 2, 3))
    assert folders.load(tmp_path, 8, classes=("zo\u00eb", "ara")).classes == ("zoe\u0308", "ara")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("1", "2", "10"),
            r"leaves out '30'; expected the 4 classes of training",
        ),
        (("1", "2", "10", "30", "9"), "names what is no class '9';"),
        (("1", "2", "10", "10", "30"), "names twice '10';"),
        (
            ("one", "2", "10", "30"),
            "names what is no class 'one' and leaves out '1';",
        ),
        ((), r"'1', '10', '2', '30'; .* Correct the list, or remove it"),
    ],
)
def test_a_list_of_other_classes_is_refused(tmp_path, given, message):
    root = numbered(tmp_path)
    with pytest.raises(DataError, match=f"the class names given: the list .*{message}"):
        folders.load(root, 8, classes=given)
    if given:
        (root / "classes.txt").write_text("\n".join(given))
        with pytest.raises(DataError, match=rf"classes\.txt: the list .*{message}"):
            folders.load(root, 8)


def test_two_lists_that_differ_are_refused(tmp_path):
    root = numbered(tmp_path)
    for place in (root, root / "train"):
        (place / "classes.txt").write_text("\n".join(NUMBERS))
    assert folders.load(root, 8).classes == NUMBERS
    (root / "classes.txt").write_text("\n".join(reversed(NUMBERS)))
    with pytest.raises(DataError, match=r"classes\.txt and .*classes\.txt list the classes in two orders"):
        folders.load(root, 8)


def test_a_data_set_by_name_takes_an_order_too(tmp_path, monkeypatch):
    plain = folders.load(numbered(tmp_path), 8)
    monkeypatch.setitem(registry.DOWNLOADED, "cifar100", lambda size: plain)
    data = registry.load("cifar100", classes=NUMBERS)
    assert data.classes == NUMBERS
    assert reds(data.test) == {name: [float(name)] for name in NUMBERS}
    assert torch.equal(data.test.images, plain.test.images)
    with pytest.raises(DataError, match="names what is no class 'none' and leaves out '1'"):
        registry.load("cifar100", classes=(*NUMBERS[1:], "none"))
    monkeypatch.setenv("MINIGSLORA_DATA", str(tmp_path))
    wnids = ("n01440764", "n02099601")
    for split in ("train", "val"):
        for i, wnid in enumerate(wnids):
            photo(tmp_path / "tiny-imagenet" / split / wnid / "0.png", (i, 0, 0))
    assert registry.load("tiny-imagenet", 8, classes=wnids[::-1]).classes == wnids[::-1]


@pytest.mark.parametrize(
    ("names", "orders"),
    [
        (("a", "b"), [("a", "b")]),
        (NUMBERS, [("1", "10", "2", "30"), NUMBERS]),
        (("b", "C", "a"), [("C", "a", "b"), ("a", "b", "C")]),
        (
            ("x10", "X2", "x1"),
            [("X2", "x1", "x10"), ("x1", "X2", "x10"), ("X2", "x1", "x10"), ("x1", "x10", "X2")],
        ),
        (("cat", "cat-big"), [("cat", "cat-big"), ("cat-big", "cat")]),
        (("-1", "-2", "3"), [("-1", "-2", "3"), ("3", "-1", "-2"), ("-2", "-1", "3")]),
        (("01", "1", "2"), [("01", "1", "2")]),
    ],
)
def test_common_orders_of_the_same_names(names, orders):
    found = list(class_order.common_orders(names).values())
    assert found == list(dict.fromkeys(orders))


def test_a_split_of_ours_says_so(tmp_path):
    assert folders.load(tree(tmp_path / "lot", **{"": {"a": 4, "b": 4}}), 8).split_by_us
    assert not folders.load(tree(tmp_path / "own", train={"a": 4}, test={"a": 1}), 8).split_by_us


# --- every kind of pixel ------------------------------------------------------------------------------


def as_read(path, size=4):
    """Return the picture's middle column of red, green and blue."""
    return pictures.read(path, size)[:, :, size // 2].T.tolist()


def grey(*values):
    return [[v, v, v] for v in values]


RAMP = np.array([0, 257, 32768, 65535])
DEEP = {
    "16-bit PNG": ("a.png", RAMP.astype(np.uint16), grey(0, 1, 128, 255)),
    "16-bit PNG, dark": ("a.png", np.array([0, 100, 128, 129]).astype(np.uint16), grey(0, 0, 0, 1)),
    "16-bit TIFF": ("a.tif", RAMP.astype(np.uint16), grey(0, 1, 128, 255)),
    "16-bit TIFF, big endian": ("a.tiff", RAMP.astype(">u2"), grey(0, 1, 128, 255)),
    "16-bit PGM": ("a.pgm", RAMP.astype(np.uint16), grey(0, 1, 128, 255)),
    "16 bits in 32": ("a.tif", RAMP.astype(np.int32), grey(0, 1, 128, 255)),
    "32-bit integers": ("a.tif", np.array([0, 10**6, 2 * 10**6, 4 * 10**6], np.int32), grey(0, 64, 128, 255)),
    "negative integers": ("a.tif", np.array([-100, 0, 50, 100], np.int32), grey(0, 128, 191, 255)),
    "floats to 1": ("a.tif", np.array([0, 0.25, 0.5, 0.75], np.float32), grey(0, 64, 128, 191)),
    "floats to 510": ("a.tif", np.array([0, 100, 255, 510], np.float32), grey(0, 50, 128, 255)),
    "floats around 0": ("a.tif", np.array([-1, -0.5, 0.5, 1], np.float32), grey(0, 64, 191, 255)),
    "floats with holes": ("a.tif", np.array([np.nan, 10, 20, np.inf], np.float32), grey(0, 0, 255, 255)),
    "nothing but holes": ("a.tif", np.full(4, np.nan, np.float32), grey(0, 0, 0, 0)),
    "one float": ("a.tif", np.full(4, 7, np.float32), grey(0, 0, 0, 0)),
    "float PFM": ("a.pfm", np.array([0, 0.25, 0.5, 0.75], np.float32), grey(0, 64, 128, 191)),
}


@pytest.mark.parametrize("case", DEEP)
def test_more_than_eight_bits_are_scaled_by_the_range_of_their_kind(tmp_path, case):
    name, column, expected = DEEP[case]
    Image.fromarray(np.repeat(column[:, None], 4, axis=1)).save(tmp_path / name)
    found = as_read(tmp_path / name)
    assert found == expected


COLOUR = (200, 100, 50)
PLAIN = {
    "RGB": ("a.png", {}, [*COLOUR]),
    "RGBA": ("a.png", {}, [*COLOUR]),
    "L": ("a.png", {}, [124] * 3),
    "LA": ("a.png", {}, [124] * 3),
    "1": ("a.png", {}, None),
    "P": ("a.png", {}, None),
    "CMYK": ("a.tif", {}, [*COLOUR]),
    "CMYK as JPEG": ("a.jpg", {"quality": 100, "subsampling": 0}, None),
    "YCbCr": ("a.jpg", {"quality": 100, "subsampling": 0}, None),
    "P with holes": ("a.png", {"transparency": bytes([0, 128, 255])}, None),
    "L with a hole": ("a.png", {"transparency": 124}, [124] * 3),
}


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.filterwarnings("error")
def test_other_modes_are_as_pillow_converts_them(tmp_path, case):
    name, options, expected = PLAIN[case]
    Image.new("RGB", (4, 4), COLOUR).convert(case.split()[0]).save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as image:
        image.info.clear()
        converted = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
    found = pictures.read(tmp_path / name, 4)
    assert torch.equal(found, converted)
    if expected:
        assert found[:, 0, 0].tolist() == expected


# --- upright -------------------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""What turns a stored array as the EXIF standard says: 6 is "the first row is the right-hand side"."""


def oriented(path, orientation):
    """Write a picture of six colours with an orientation, and return the array that is stored."""
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16], stored[:8, 16:], stored[8:, :16] = (240, 0, 0), (0, 240, 0), (0, 0, 240)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(path.suffix, {})
    Image.fromarray(stored).save(path, exif=exif, **options)
    return stored


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright(tmp_path, orientation, ending):
    stored = oriented(tmp_path / f"a{ending}", orientation)
    Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](stored))).save(tmp_path / "turned.png")
    found, expected = (pictures.read(tmp_path / name, 16) for name in (f"a{ending}", "turned.png"))
    assert (found.int() - expected.int()).abs().max() <= (3 if ending == ".jpg" else 0)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff"]
)
def test_a_damaged_note_of_the_camera_loses_no_picture(tmp_path, exif):
    Image.new("RGB", (8, 8), COLOUR).save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    assert (pictures.read(tmp_path / "a.jpg", 4)[:, 0, 0] - torch.tensor(COLOUR)).abs().max() <= 2


# --- large and absurd ------------------------------------------------------------------------------------


def test_a_photograph_of_182_megapixels_is_read(tmp_path):
    halves = np.zeros((13500, 13500), np.uint8)
    halves[:, 6750:] = 200
    Image.fromarray(halves).save(tmp_path / "large.jpg")
    limit = Image.MAX_IMAGE_PIXELS
    found = pictures.read(tmp_path / "large.jpg", 8)
    assert found[:, :, [0, 7]].unique(dim=1).squeeze(1).tolist() == [[0, 200]] * 3
    assert limit == Image.MAX_IMAGE_PIXELS  # the program's own limit is as before


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.gif", "a.jpg"])
def test_large_pictures_are_reduced_before_they_are_resized(tmp_path, monkeypatch, name):
    steps = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((60, 100), np.uint8))
    Image.fromarray(steps).save(tmp_path / name)
    whole = pictures.read(tmp_path / name, 6)
    monkeypatch.setattr(pictures, "LARGE", 1000)
    reduced = pictures.read(tmp_path / name, 6)
    assert reduced.shape == whole.shape
    assert reduced[0, [0, 0, 5, 5], [0, 5, 0, 5]].tolist() == pytest.approx([0, 80, 160, 240], abs=2)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1), (3000, 1)])
def test_strips_and_dots_are_squares_too(tmp_path, size):
    Image.new("RGB", size, COLOUR).save(tmp_path / "a.png")
    assert pictures.read(tmp_path / "a.png", 224).unique(dim=1).flatten(1)[:, 0].tolist() == [*COLOUR]


def png_header(width, height):
    """Return the start of a PNG of such a size, and nothing of its pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return start + struct.pack(">I", 9) + b"IDAT"


def noise(kind):
    """Return a file of noise."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(buffer, kind)
    return buffer.getvalue()


DAMAGED = {
    "empty": (b"", "the file is empty"),
    "text": (b"no image at all", "it is in none of the formats read here"),
    "cut JPEG": (noise("JPEG")[:600], "truncated"),
    "cut PNG": (noise("PNG")[:300], "truncated|broken"),
    "header alone": (noise("JPEG")[:20], "truncated|none of the formats"),
    "broken chunk": (noise("PNG").replace(b"IDAT", b"IDAX"), "cannot be read|no|broken|unknown|truncated"),
    "a web page": (b"<!DOCTYPE html><title>404</title>", "markup, such as a web page or SVG"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer: fetch"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript: convert it to PNG"),
    "PDF": (b"%PDF-1.7", "a PDF: convert it"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, as phones write it: convert it to JPEG"),
    "4 gigapixels": (png_header(65536, 65536), "exceeds limit|65536 × 65536 pixels"),
    "700 megapixels": (png_header(28000, 25000), "28000 × 25000 pixels; expected at least 1 and at most 250"),
    "no pixels": (png_header(0, 7), "none of the formats|0 × 7 pixels"),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_named_with_its_reason(tmp_path, case):
    content, reason = DAMAGED[case]
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(
        DataError, match=rf"a\.jpg is not a readable image \(.*({reason}).*\); remove or replace"
    ):
        pictures.read(tmp_path / "a.jpg", 8)


@pytest.mark.parametrize(
    "raised",
    [
        kind("x")
        for kind in (
            *(OSError, SyntaxError, ValueError, struct.error, IndexError, KeyError, EOFError, OverflowError),
            *(MemoryError, zlib.error, NotImplementedError, TypeError, AttributeError, ZeroDivisionError),
            Image.DecompressionBombError,
        )
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_pillow_raises_names_the_file(tmp_path, monkeypatch, raised):
    def fail(*_, **__):
        raise raised

    photo(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(DataError, match=r"a\.png is not a readable image \('?x'?\); remove or replace it"):
        pictures.read(tmp_path / "a.png", 8)


def test_what_is_no_file_is_named_and_nothing_waits_for_it(tmp_path):
    root = tree(tmp_path, train={"a": 3}, test={"a": 1})
    os.mkfifo(root / "train" / "a" / "pipe.png")
    (root / "train" / "a" / "gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(DataError) as caught:
        folders.load(root, 8)
    assert "gone.png is not a readable image (a link to nothing)" in str(caught.value)
    assert "pipe.png is not a readable image (not a regular file)" in str(caught.value)


@pytest.mark.parametrize("memory", [pictures.IN_MEMORY, 0])
@pytest.mark.parametrize(
    ("bad", "said"), [(1, ""), (3, r"\(4 faults in all\)"), (8, r"; … \(9 faults in all\)")]
)
def test_all_bad_files_are_reported_in_one_run(tmp_path, monkeypatch, memory, bad, said):
    root = tree(tmp_path, train={"a": 9, "b": 9}, test={"a": 2, "b": 2})
    for i in range(bad):
        (root / "train" / "ab"[i % 2] / f"{i}.png").write_bytes(b"no image")
    if said:
        (root / "test" / "b" / "0.png").write_bytes(b"")
    monkeypatch.setattr(pictures, "IN_MEMORY", memory)
    with pytest.raises(DataError, match=rf"0\.png is not a readable image .*{said}$") as caught:
        folders.load(root, 8)
    assert str(caught.value).count("is not a readable image") == min(5, bad + bool(said))


# --- what counts as a picture --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        *("a/.ipynb_checkpoints/0-checkpoint.png", "a/._0.png", "._a/0.png", ".git/0.png", "@eaDir/0.png"),
        *("a/@eaDir/0.png/SYNOPHOTO_THUMB_M.png", "__MACOSX/a/._0.png", "a/.thumbs/deep/0.png"),
        *("lost+found/0.png", "$RECYCLE.BIN/0.png", "#recycle/a/0.png"),
    ],
)
def test_hidden_files_and_folders_are_passed_over(tmp_path, extra):
    root = tree(tmp_path, train={"a": 4, "b": 4}, test={"a": 2, "b": 2})
    plain = folders.load(root, 8)
    photo(root / "train" / extra, COLOUR)
    data = folders.load(root, 8)
    assert data.classes == ("a", "b")
    assert torch.equal(data.train.images, plain.train.images)


def test_links_are_followed_and_no_link_goes_round(tmp_path):
    root = tree(tmp_path / "data", train={"a": 2, "b": 2}, test={"a": 1, "b": 1})
    more = tree(tmp_path / "elsewhere", **{"": {"more": 3, "c": 5}})
    (root / "train" / "a" / "one.png").symlink_to(more / "c" / "0.png")  # a file
    (root / "train" / "a" / "some").symlink_to(more / "more")  # a folder
    (root / "train" / "a" / "again").symlink_to(more / "more")  # which is read once
    (root / "train" / "c").symlink_to(more / "c")  # a class
    for name, target in (("self", "self"), ("class", root / "train" / "a"), ("up", root), ("top", "/")):
        (root / "train" / "a" / name).symlink_to(target)
    found = folders.class_files(root / "train")
    assert {name: len(files) for name, files in found.items()} == {"a": 6, "b": 2, "c": 5}


@pytest.mark.parametrize(
    "names",
    [
        *(("Train", "Test"), ("TRAIN", "VAL"), ("train", "Validation"), ("Training", "Testing")),
        *(("training_set", "test_set"), ("Train", "dev")),
    ],
)
def test_split_names_in_any_case(tmp_path, names):
    root = tree(tmp_path, **{names[0]: {"x": 10, "y": 10}, names[1]: {"x": 2, "y": 2}})
    data = folders.load(root, 8)
    assert data.classes == ("x", "y")
    assert [len(s) for s in (data.train, data.val, data.test)] == [18, 2, 4]
    assert not data.split_by_us


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (("Train/a/0.png", "train/a/0.png", "test/a/0.png"), r"has both Train/ and train/; keep one of them"),
        (
            ("test/a/0.png", "val/a/0.png"),
            r"has test/ but no train/; name the folder of training images train",
        ),
        (
            ("pets/train/a/0.png", "pets/test/a/0.png"),
            r"is no data set, but .*pets is one: it has train/\. Give",
        ),
        (("a/0.heic", "b/0.png"), r"class folder .*a has no image; .* its files end in '\.heic' .*\.pgm"),
        (("0.png", "1.png"), r"has no class folder with images; .* its 2 images lie in no class .*\.gif"),
        (
            ("JPEGImages/0.jpg", "Annotations/0.xml"),
            r"holds detection data in Pascal VOC's layout \(JPEGImages\)",
        ),
        (("VOC2007/JPEGImages/0.jpg", "VOC2007/Annotations/0.xml"), r"in Pascal VOC's layout .*notebook 09"),
        (("annotations/instances_train2017.json", "train2017/0.jpg"), "in COCO's layout"),
        (("train/_annotations.coco.json", "train/0.jpg"), "in COCO's layout"),
        (("images/0.jpg", "labels/0.txt"), "in YOLO's layout"),
        (("train/images/0.jpg", "train/labels/0.txt"), "in YOLO's layout"),
        (("images/train/0.jpg", "labels/train/0.txt"), "in YOLO's layout"),
    ],
)
def test_other_layouts_are_recognised(tmp_path, made, message):
    for name in made:
        path = tmp_path / name
        if path.suffix == ".png":
            photo(path, COLOUR)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    with pytest.raises(DataError, match=message):
        folders.load(tmp_path, 8)


@pytest.mark.parametrize("ending", sorted(pictures.ENDINGS))
def test_every_accepted_ending_is_read(tmp_path, ending):
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    if ending in (".jp2", ".j2k") and not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    kind = {".apng": "PNG", ".pfm": "PPM", ".pbm": "PPM", ".j2k": "JPEG2000"}.get(ending)
    mode = {".pbm": "1", ".pgm": "L", ".pfm": "F"}.get(ending, "RGB")
    white = 1 if mode in "1F" else 255 if mode == "L" else (255, 255, 255)
    for name, colour in (("light", white), ("dark", 0)):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new(mode, (8, 8), colour).save(
                tmp_path / name / f"{i}{[ending, ending.upper()][i % 2]}", kind
            )
    data = folders.load(tmp_path, 8)
    assert len(data.train) + len(data.val) + len(data.test) == 8
    assert [data.test.images[data.test.labels == c].float().mean().round() for c in (0, 1)] == [0, 255]


@pytest.mark.parametrize("place", ["out", "out/deep/run", "results/first"])
@pytest.mark.parametrize("mark", folders.RUN_MARKS)
def test_results_below_the_data_are_no_class(tmp_path, place, mark):
    root = tree(tmp_path, **{"": {"a": 4, "b": 4}})
    photo(root / place / "before_after.png", COLOUR)
    photo(root / place / "tasks" / "figure.png", COLOUR)
    (root / place / mark).write_text("{}")
    photo(root / "a" / "run" / "figure.png", COLOUR)
    (root / "a" / "run" / mark).write_text("{}")
    found = folders.class_files(root)
    assert {name: len(files) for name, files in found.items()} == {"a": 4, "b": 4}


def test_a_class_with_a_single_image_is_trained_on_and_not_tested(tmp_path):
    data = folders.load(tree(tmp_path, **{"": {"few": 1, "many": 10}}), 8)
    assert data.classes == ("few", "many")
    assert data.train.labels.tolist() == [0] + [1] * 8
    assert data.val.labels.tolist() == data.test.labels.tolist() == [1]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    root = tree(tmp_path, **{"": {"a": 2, "b": 2}})
    plain = type(root).iterdir

    def refused(path):
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(type(root), "iterdir", refused)
    with pytest.raises(DataError, match=r"the folder .*b cannot be read \(Permission denied\); allow it"):
        folders.load(root, 8)
