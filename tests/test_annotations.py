"""Annotations as they come: what has one obvious reading, and what is named and refused."""

import copy
import json

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from minigslora.datasets import pictures, registry
from minigslora.datasets.annotations import checked_box
from minigslora.datasets.detection import from_coco, load_coco, load_voc
from minigslora.errors import DataError

WIDTH, HEIGHT = 40, 20
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def plain(images=3):
    """Return COCO's dictionary: image 10 shows a cat, 11 a dog and a cat, the others nothing."""
    return {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(images)
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 3, "bbox": [1, 2, 10, 5], "iscrowd": 0},
            {"id": 2, "image_id": 11, "category_id": 7, "bbox": [0, 0, 40, 20], "iscrowd": 0},
            {"id": 3, "image_id": 11, "category_id": 3, "bbox": [4.5, 5, 6, 7], "iscrowd": 0},
        ],
        "categories": CATEGORIES,
    }


FOUND = {10: [("cat", [1, 2, 10, 5])], 11: [("dog", [0, 0, 40, 20]), ("cat", [4.5, 5, 6, 7])], 12: []}


def picture(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)


def coco_folder(root, test, train=None):
    """Write a data set in COCO's layout; ``test`` is the dictionary or the bytes of its test annotations."""
    for split, value, count in (("train2017", train or plain(), 3), ("val2017", test, 3)):
        for i in range(count):
            picture(root / split / f"{i}.png")
        file = root / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return root


def shown(split):
    """Return the names and boxes of each image's objects."""
    return [
        [(split.classes[label], box) for label, box in zip(o.labels.tolist(), o.boxes.tolist(), strict=True)]
        for o in split.objects
    ]


def changed(**at):
    """Return the dictionary with keys of entries set, as in annotations_0_bbox=[…]; None takes a key away."""
    value = copy.deepcopy(plain())
    for where, new in at.items():
        kind, place, key = where.split("_", 2)
        if new is None:
            del value[kind][int(place)][key]
        else:
            value[kind][int(place)][key] = new
    return value


def with_more(kind, *entries):
    value = plain()
    value[kind] = [*value[kind], *entries]
    return value


# --- COCO: one obvious reading -------------------------------------------------------------------------

NULL = json.loads("null")
READ_AS_PLAIN = {
    "as it is": plain(),
    "one id for boxes of two images": changed(annotations_1_id=1, annotations_2_id=1),
    "no ids of annotations": changed(annotations_0_id=None, annotations_1_id=None, annotations_2_id=None),
    "ids as text": json.loads(
        json.dumps(plain()).replace('_id": 10', '_id": "10"').replace('_id": 3', '_id": "3"')
    ),
    "all ids as text": changed(
        **{f"images_{i}_id": str(10 + i) for i in range(3)}, categories_0_id="3", annotations_1_image_id="11"
    ),
    "ids with zeros before": changed(images_0_id="0010", annotations_0_category_id="03"),
    "ids as 10.0": changed(images_0_id=10.0, annotations_0_image_id=10.0, categories_1_id=7.0),
    "sizes as text and 40.0": changed(images_0_width="40", images_1_width=40.0),
    "an entry twice": with_more("annotations", plain()["annotations"][0]),
    "a box without width": with_more(
        "annotations", {"id": 9, "image_id": 12, "category_id": 3, "bbox": [1, 1, 0, 5], "iscrowd": 0}
    ),
    "a box without height": with_more(
        "annotations", {"id": 9, "image_id": 12, "category_id": 3, "bbox": [1, 1, 5, 0.0], "iscrowd": 0}
    ),
    "no iscrowd": changed(annotations_0_iscrowd=None),
    "iscrowd false": changed(annotations_0_iscrowd=False),
    "names with blanks": changed(categories_0_name=" cat ", categories_1_name="dog\n"),
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(plain()).encode(),
    "UTF-16": json.dumps(plain()).encode("utf-16"),
    "images in another order": {**plain(), "images": plain()["images"][::-1]},
    "folders parted by a backslash": changed(images_0_file_name="..\\val2017\\0.png"),
    "more keys": {**changed(annotations_0_score=0.5, images_0_license=[1]), "info": [], "licenses": "none"},
}


@pytest.mark.parametrize("case", READ_AS_PLAIN)
def test_coco_is_read_as_it_is_meant(tmp_path, case):
    data = load_coco(str(coco_folder(tmp_path, READ_AS_PLAIN[case])), 8)
    assert data.classes == ("cat", "dog")
    assert shown(data.test) == [FOUND[10], FOUND[11], FOUND[12]]
    assert not any(o.crowd.any() for o in data.test.objects)


def test_images_may_be_known_by_text(tmp_path):
    value = copy.deepcopy(plain())
    for entry in value["annotations"]:
        entry["image_id"] = f"shot {entry['image_id']}"
    for image in value["images"]:
        image["id"] = f"shot {image['id']}"
    assert shown(load_coco(coco_folder(tmp_path, value), 8).test) == [FOUND[10], FOUND[11], FOUND[12]]


@pytest.mark.parametrize(
    ("extra", "classes"),
    [
        ([{"id": 0, "name": "pets", "supercategory": "none"}], ("cat", "dog")),
        ([{"id": 0, "name": "objects", "supercategory": "none"}], ("cat", "dog")),
        ([{"id": 9, "name": "pets", "supercategory": ""}], ("cat", "dog")),
        ([{"id": 0, "name": "bird"}], ("bird", "cat", "dog")),  # not seen, but a class like the others
        ([{"id": 8, "name": "bird", "supercategory": "pets"}], ("cat", "dog", "bird")),
        (
            [
                {"id": 0, "name": "a", "supercategory": "none"},
                {"id": 1, "name": "b", "supercategory": "none"},
            ],
            ("a", "b", "cat", "dog"),
        ),
    ],
)
def test_an_unused_category_that_only_heads_the_others_is_no_class(tmp_path, extra, classes):
    value = plain()
    value["categories"] = [*extra, *({**c, "supercategory": "pets"} for c in CATEGORIES)]
    data = load_coco(coco_folder(tmp_path, value, value), 8)
    assert data.classes == classes
    assert shown(data.test) == [FOUND[10], FOUND[11], FOUND[12]]


def test_a_root_category_with_objects_stays(tmp_path):
    value = plain()
    value["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"}]
    value["categories"] += [{**c, "supercategory": "pets"} for c in CATEGORIES]
    used = copy.deepcopy(value)
    used["annotations"][0]["category_id"] = 0
    assert load_coco(coco_folder(tmp_path, value, used), 8).classes == ("pets", "cat", "dog")
    person = {**plain(), "categories": [{"id": 1, "name": "person", "supercategory": "person"}, *CATEGORIES]}
    assert load_coco(coco_folder(tmp_path, person, person), 8).classes == ("person", "cat", "dog")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 40, 20], [0, 0, 40, 20]),
        ([0.25, 0.5, 39.75, 19.5], [0.25, 0.5, 39.75, 19.5]),
        ([-0.5, 3, 10, 5], [0, 3, 9.5, 5]),
        ([30, 15, 10.75, 6], [30, 15, 10, 5]),
        ([-1, -1, 42, 22], [0, 0, 40, 20]),
        ([5, 5, 0, 3], None),
        ([5, 5, 3, 0.0], None),
    ],
)
def test_boxes_are_cut_at_the_edge(box, expected):
    assert checked_box("a", box, (HEIGHT, WIDTH)) == expected


def test_the_slack_at_the_edge_grows_with_the_image():
    assert checked_box("a", [0, 0, 1019, 10], (1000, 1000)) == [0, 0, 1000, 10]
    with pytest.raises(DataError, match="does not lie in its image of width 1000 and height 1000"):
        checked_box("a", [0, 0, 1021, 10], (1000, 1000))


# --- COCO: refused -------------------------------------------------------------------------------------

LAYOUT = r"expected \[left, top, width, height\]"
REFUSED = {
    "no JSON": (b"images: []", "Expecting value"),
    "cut JSON": (json.dumps(plain()).encode()[:200], "Unterminated string"),
    "empty": (b"", "Expecting value"),
    "Latin-1": ('{"images": "é"}'.encode("latin-1"), "codec can't decode"),
    "nested without end": (b"[" * 100_000, "recursion|nested"),
    "a list": ([], "it holds no object; expected one with 'images'"),
    "a number of thousands of digits": (b'{"images": ' + b"9" * 5000 + b"}", "digits"),
    "no annotations": ({"images": [], "categories": []}, "it has no list 'annotations'"),
    "images no list": ({**plain(), "images": {"10": "0.png"}}, "it has no list 'images'"),
    "no images": ({**plain(), "images": []}, "its list 'images' is empty"),
    "no categories": ({**plain(), "categories": []}, "its list 'categories' is empty"),
    "an image that is text": (
        {**plain(), "images": ["0.png"]},
        "image number 1 is '0.png'; expected an object",
    ),
    "an annotation that is null": (with_more("annotations", NULL), "annotation number 4 is None"),
    "image listed twice": (with_more("images", plain()["images"][0]), "image 10: id 10 is listed twice"),
    "picture listed twice": (
        changed(images_1_file_name="0.png"),
        "image 11: file_name '0.png' is listed twice",
    ),
    "category listed twice": (
        with_more("categories", {"id": 7, "name": "cow"}),
        "category 7: id 7 is listed",
    ),
    "name listed twice": (
        with_more("categories", {"id": 8, "name": "dog"}),
        "category 8: name 'dog' is listed",
    ),
    "nameless category": (changed(categories_0_name=" "), r"category 3: name = ' '; expected the name"),
    "no name": (changed(categories_0_name=None), "category 3 has no 'name'"),
    "no image id": (changed(images_0_id=None), "image number 1 has no 'id'"),
    "id a list": (changed(images_0_id=[1]), r"image \[1\]: id = \[1\]; expected a whole number"),
    "id true": (changed(images_0_id=True), "image True: id = True; expected a whole number"),
    "id 1.5": (changed(annotations_0_image_id=1.5), "annotation 1: image_id = 1.5; expected a whole number"),
    "no file name": (changed(images_0_file_name=None), "image 10 has no 'file_name'"),
    "file name a number": (changed(images_0_file_name=7), "image 10: file_name = 7; expected the name"),
    "no width": (changed(images_1_width=None), "image 11 has no 'width'"),
    "width 0": (changed(images_1_width=0), "image 11: width = 0; expected a whole number of pixels"),
    "width wide": (changed(images_1_width="wide"), "image 11: width = 'wide'; expected a whole"),
    "width 40.5": (changed(images_1_width=40.5), "image 11: width = 40.5; expected a whole"),
    "width NaN": (changed(images_1_width=float("nan")), "image 11: width = nan; expected a whole"),
    "height true": (changed(images_1_height=True), "image 11: height = True; expected a whole"),
    "unknown image": (
        changed(annotations_1_image_id=99),
        "annotation 2 is of image 99, which 'images' does not",
    ),
    "no image": (changed(annotations_1_image_id=None), "annotation 2 has no 'image_id'"),
    "unknown category": (changed(annotations_1_category_id=4), "annotation 2 has category_id 4, which"),
    "no category": (changed(annotations_1_category_id=None), "annotation 2 has no 'category_id'"),
    "category null": (changed(annotations_1_category_id=[]), r"annotation 2: category_id = \[\]; expected"),
    "no box": (changed(annotations_1_bbox=None), "annotation 2 has no 'bbox'"),
    "box of three": (changed(annotations_1_bbox=[1, 2, 3]), rf"annotation 2: bbox = \[1, 2, 3\]; {LAYOUT}"),
    "box by name": (changed(annotations_1_bbox={"x": 1}), rf"annotation 2: bbox = \{{'x': 1\}}; {LAYOUT}"),
    "box of text": (
        changed(annotations_1_bbox=["1", 2, 3, 4]),
        "bbox = .'1', 2, 3, 4.; expected four numbers",
    ),
    "box with NaN": (
        changed(annotations_1_bbox=[float("nan"), 2, 3, 4]),
        "annotation 2: bbox = .*four numbers",
    ),
    "box without end": (changed(annotations_1_bbox=[0, 0, float("inf"), 4]), "annotation 2: .*four numbers"),
    "box of 10**400": (changed(annotations_1_bbox=[0, 0, 10**400, 4]), "annotation 2: .*four numbers"),
    "box with true": (changed(annotations_1_bbox=[0, 0, True, 4]), "annotation 2: bbox = .*four numbers"),
    "box with null": (changed(annotations_1_bbox=[0, 0, NULL, 4]), "annotation 2: bbox = .*four numbers"),
    "nested box": (changed(annotations_1_bbox=[[0, 0], [3, 4], 1, 2]), "annotation 2: bbox = .*four numbers"),
    "negative width": (
        changed(annotations_1_bbox=[9, 9, -3, 4]),
        f"annotation 2: bbox = .*; {LAYOUT}, width",
    ),
    "box outside": (changed(annotations_1_bbox=[50, 3, 5, 5]), "annotation 2: .* does not lie in its image"),
    "box above": (changed(annotations_1_bbox=[5, -30, 5, 5]), "annotation 2: .* does not lie in its image"),
    "box just outside": (changed(annotations_1_bbox=[40, 3, 0.5, 5]), "annotation 2: .* does not lie in"),
    "corners": (
        changed(annotations_1_bbox=[20, 10, 38, 18]),
        "of width 40 and height 20; expected .left, top",
    ),
    "iscrowd as text": (changed(annotations_1_iscrowd="0"), "annotation 2: iscrowd = '0'; expected 0 or 1"),
    "iscrowd 2": (changed(annotations_1_iscrowd=2), "annotation 2: iscrowd = 2; expected 0 or 1"),
    "iscrowd a list": (changed(annotations_1_iscrowd=[1]), r"annotation 2: iscrowd = \[1\]; expected 0 or 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_names_the_file_and_the_entry(tmp_path, case):
    value, message = REFUSED[case]
    with pytest.raises(
        DataError, match=rf"instances_val2017\.json is not in COCO's format.*{message}"
    ) as caught:
        load_coco(coco_folder(tmp_path, value), 8)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_all_entries_that_cannot_be_are_named_at_once(tmp_path):
    value = changed(annotations_0_bbox=[1, 2], annotations_1_category_id=9, annotations_2_image_id=99)
    with pytest.raises(DataError, match=r"annotation 1: .*annotation 2 .*annotation 3 .*\(3 faults in all\)"):
        load_coco(coco_folder(tmp_path, value), 8)
    with pytest.raises(DataError, match=r"train2017\.json .*val2017\.json .*\(6 faults in all\)"):
        load_coco(coco_folder(tmp_path, value, value), 8)
    with pytest.raises(DataError, match=r"annotation 2 is of image 99"):
        from_coco(torch.zeros(3, 3, 8, 8), changed(annotations_1_image_id=99))


@pytest.mark.parametrize("memory", [pictures.IN_MEMORY, 0])
def test_pictures_of_another_size_are_named(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(pictures, "IN_MEMORY", memory)
    root = coco_folder(tmp_path, plain())
    picture(root / "val2017" / "1.png", (80, 40))
    (root / "train2017" / "0.png").unlink()
    with pytest.raises(DataError) as caught:
        load_coco(root, 8)
    assert f"{root / 'val2017' / '1.png'} has 80 × 40 pixels, but its annotations say (40, 20)" in str(
        caught.value
    )
    assert "0.png is not a readable image (there is no such file)" in str(caught.value)
    assert "(2 faults in all)" in str(caught.value)


# --- the frame that boxes are drawn in -----------------------------------------------------------------


def turned(path, orientation):
    """Write a stored picture of 40 × 20 pixels, red on the left and blue on the right."""
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[:, :20, 0], stored[:, 20:, 2] = 250, 250
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stored).save(path, exif=exif)


@pytest.mark.parametrize("memory", [pictures.IN_MEMORY, 0])
@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [
        (1, (40, 20), np.s_[:, :4]),
        (6, (40, 20), np.s_[:, :4]),  # declared as stored: boxes are in stored pixels
        (6, (20, 40), np.s_[:4, :]),  # declared as shown: the picture is turned clockwise
        (8, (20, 40), np.s_[4:, :]),
        (5, (20, 40), np.s_[:4, :]),
        (7, (20, 40), np.s_[4:, :]),
        (3, (40, 20), np.s_[:, :4]),  # both sizes fit: stored
    ],
)
def test_boxes_and_pictures_share_the_declared_frame(tmp_path, monkeypatch, memory, orientation, size, red):
    monkeypatch.setattr(pictures, "IN_MEMORY", memory)
    value = changed(images_0_width=size[0], images_0_height=size[1])
    root = coco_folder(tmp_path, value)
    turned(root / "val2017" / "0.png", orientation)
    data = load_coco(root, 8)
    image = data.test.images[torch.tensor([0])][0].numpy()
    assert (image[0][red] > 120).mean() > 0.7
    assert (image[2][red] > 120).mean() < 0.3
    assert data.test.objects[0].size == size[::-1]


def test_a_size_that_fits_neither_frame_is_refused(tmp_path):
    root = coco_folder(
        tmp_path, changed(images_0_width=20, images_0_height=40, annotations_0_bbox=[1, 2, 3, 4])
    )
    with pytest.raises(DataError, match=r"0\.png has 40 × 20 pixels, but its annotations say \(20, 40\)"):
        load_coco(root, 8)


# --- Pascal VOC ----------------------------------------------------------------------------------------

OBJECT = """<object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax>
<ymax>{3}</ymax></bndbox></object>"""
SIZE = "<size><width>40</width><height>20</height><depth>3</depth></size>"


def xml(filename="", size=SIZE, corners=(1, 2, 11, 7), name="nut", head=""):
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"{head}<annotation>{named}{size}{OBJECT.format(*corners, name=name)}</annotation>"


def voc_folder(root, test=("b",), files=None, pictures=(), train="a\n"):
    """Write a data set in VOC's layout: one training image, and test images with their annotations."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    picture(root / "JPEGImages" / "a.jpg")
    (root / "Annotations" / "a.xml").write_text(xml("a.jpg"))
    for name in pictures or ("b.jpg",):
        picture(root / "JPEGImages" / name)
    for name, text in (files or {"b": xml("b.jpg")}).items():
        content = text if isinstance(text, bytes) else text.encode()
        (root / "Annotations" / f"{name}.xml").write_bytes(content)
    (root / "ImageSets" / "Main" / "trainval.txt").write_text(train)
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(test), encoding="utf-8")
    return root


NUT = [[("nut", [1, 2, 10, 5])]]
VOC = {
    "as it is": ({}, NUT),
    "a name with spaces": ({"test": ("my photo 1",), "files": {"my photo 1": xml("my photo 1.jpg")}}, NUT),
    "a name that looks labelled": ({"test": ("shot 1",), "files": {"shot 1": xml()}}, NUT),
    "a name with points": ({"test": ("v1.2.b",), "files": {"v1.2.b": xml("v1.2.b")}}, NUT),
    "a file name without ending": ({"files": {"b": xml("b")}}, NUT),
    "no file name": ({"files": {"b": xml()}}, NUT),
    "another ending": ({"files": {"b": xml("b.jpg")}, "pictures": ("b.PNG",)}, NUT),
    "a renamed picture": ({"files": {"b": xml("IMG_7.jpg")}}, NUT),
    "a renamed annotation": ({"files": {"b": xml("IMG_7.jpg")}, "pictures": ("IMG_7.jpg",)}, NUT),
    "a file name with folders": ({"files": {"b": xml("C:\\photos\\c.jpg")}, "pictures": ("c.jpg",)}, NUT),
    "two pictures, one named": ({"files": {"b": xml("b.png")}, "pictures": ("b.jpg", "b.png")}, NUT),
    "no size": ({"files": {"b": xml(size="")}}, NUT),
    "size 0": ({"files": {"b": xml(size="<size><width>0</width><height>0</height></size>")}}, NUT),
    "half a size": ({"files": {"b": xml(size="<size><width>40</width></size>")}}, NUT),
    "size 40.0": ({"files": {"b": xml(size="<size><width>40.0</width><height> 20 </height></size>")}}, NUT),
    "labels after the name": ({"test": ("b  1",)}, NUT),
    "a label -1": ({"test": ("b -1",)}, NUT),
    "a label 0 after a tab": ({"test": ("b\t0",)}, NUT),
    "endings in the list": ({"test": ("b.jpg",)}, NUT),
    "folders in the list": ({"test": ("JPEGImages/b.jpg",)}, NUT),
    "a name twice": ({"test": ("b", "b 1", "b.jpg")}, NUT),
    "a byte order mark": ({"test": ("\ufeffb", "", " ")}, NUT),
    "fractions": ({"files": {"b": xml(corners=(1.5, 2.25, 11.5, "7.25 "))}}, [[("nut", [1.5, 2.25, 10, 5])]]),
    "beyond the edge by one": (
        {"files": {"b": xml(corners=(30, 10, 41, 21))}},
        [[("nut", [30, 10, 10, 10])]],
    ),
    "no extent": ({"files": {"b": xml(corners=(5, 5, 5, 9))}}, [[]]),
    "Latin-1, as it says": (
        {
            "files": {
                "b": xml(name="Mühle", head='<?xml version="1.0" encoding="iso-8859-1"?>').encode("latin-1")
            }
        },
        [[("Mühle", [1, 2, 10, 5])]],
    ),
    "a byte order mark in the annotation": ({"files": {"b": b"\xef\xbb\xbf" + xml().encode()}}, NUT),
    "parts with boxes of their own": (
        {"files": {"b": xml().replace("</object>", "<part><name>x</name></part></object>")}},
        NUT,
    ),
}


@pytest.mark.parametrize("case", VOC)
def test_voc_is_read_as_it_is_meant(tmp_path, case):
    made, expected = VOC[case]
    if "pictures" not in made and "test" in made and "files" in made:
        made = {**made, "pictures": [f"{name}.jpg" for name in made["files"]]}
    data = load_voc(str(voc_folder(tmp_path, **made)), 8)
    assert shown(data.test) == expected
    assert data.test.objects[0].size == (HEIGHT, WIDTH)


BOMB = '<!DOCTYPE a [<!ENTITY l "lol">' + "".join(
    f'<!ENTITY l{i} "{f"&l{i - 1 or str()};" * 10}">' for i in range(1, 10)
)
VOC_REFUSED = {
    "entities without end": (xml(head=f"{BOMB}]>", name="&l9;"), "has a DOCTYPE, whose entities may grow"),
    "a file as an entity": (
        xml(head='<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]>', name="&f;"),
        "has a DOCTYPE",
    ),
    "a plain DOCTYPE": (xml(head="<!DOCTYPE annotation>"), "has a DOCTYPE"),
    "no XML": ("no annotation", r"is no readable annotation \(syntax error"),
    "empty": ("", "is no readable annotation .*no element found"),
    "cut": (xml()[:60], "is no readable annotation .*; expected VOC's XML"),
    "JSON": ('{"boxes": []}', "is no readable annotation"),
    "another tree": ("<html><body/></html>", r"it holds a <html>"),
    "bytes of another encoding": (
        xml(name="Mühle").encode("latin-1"),
        "is no readable annotation .*invalid token",
    ),
    "an unknown encoding": (
        xml(head='<?xml version="1.0" encoding="klingon"?>'),
        "is no readable annotation",
    ),
    "a number of three bytes": (
        xml(head='<?xml version="1.0" encoding="utf-7"?>'),
        "is no readable annotation",
    ),
    "no box": (
        xml().replace("bndbox", "box"),
        r"b\.xml, object 1, has no <bndbox><xmin> in its <object>; add",
    ),
    "no name": (xml().replace("name>", "title>"), r"b\.xml, object 1, has no <name>"),
    "an empty name": (xml(name=" "), r"b\.xml, object 1, has an empty <name>"),
    "a corner that is text": (
        xml(corners=("left", 2, 11, 7)),
        r"object 1: <bndbox><xmin> is 'left'; expected a",
    ),
    "a comma": (xml(corners=("1,5", 2, 11, 7)), r"object 1: <bndbox><xmin> is '1,5'; expected a number of"),
    "an empty corner": (xml(corners=("", 2, 11, 7)), r"object 1: <bndbox><xmin> is ''; expected a number"),
    "NaN": (xml(corners=("nan", 2, 11, 7)), r"object 1: <bndbox><xmin> is 'nan'; expected a number"),
    "inf": (xml(corners=(1, 2, "inf", 7)), r"object 1: <bndbox><xmax> is 'inf'; expected a number"),
    "1_0": (xml(corners=(1, 2, "1_0", 7)), r"object 1: <bndbox><xmax> is '1_0'; expected a number"),
    "right before left": (xml(corners=(11, 2, 1, 7)), r"object 1 \(nut\): bbox = .*width and height above 0"),
    "outside": (xml(corners=(50, 2, 60, 7)), r"b\.xml, object 1 \(nut\): .* does not lie in its image"),
    "far beyond the edge": (
        xml(corners=(1, 2, 80, 7)),
        r"object 1 \(nut\): .*does not lie in its image of width 40",
    ),
    "another size": (xml(size=SIZE.replace("40", "80")), r"b\.jpg has 40 × 20 pixels, but .* say \(80, 20\)"),
    "a size of text": (xml(size=SIZE.replace("40", "wide")), r"b\.xml: <size><width> is 'wide'; expected a"),
    "a negative size": (xml(size=SIZE.replace("40", "-40")), r"b\.xml: <size> is -40 × 20; expected whole"),
}


@pytest.mark.parametrize("case", VOC_REFUSED)
def test_what_voc_cannot_mean_names_the_file_and_the_object(tmp_path, case):
    text, message = VOC_REFUSED[case]
    with pytest.raises(DataError, match=message) as caught:
        registry.load_detection(voc_folder(tmp_path, files={"b": text}), 8)
    assert "b." in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            {"test": ("c",)},
            r"test\.txt lists 'c', but there is no c\.xml in .*Annotations; add it, or take it",
        ),
        ({"test": ("c -1", "d")}, r"lists 'c -1', but there is no c\.xml .*lists 'd'.*\(2 faults in all\)"),
        ({"test": ("x" * 400,)}, r"test\.txt lists 'x+, but there is no"),
        ({"test": ("",)}, r"test\.txt is empty; write one name a line"),
        ({"test": ("a", "b")}, r"lists 'a' for training and for the test \(1 such images\); list each once"),
        (
            {"pictures": ("other.jpg",)},
            r"b\.xml has no picture in JPEGImages; expected one of its name, b\.jpg",
        ),
        ({"pictures": ("b.png", "b.bmp")}, r"b\.xml has several pictures b\.bmp, b\.png in JPEGImages"),
        (
            {"test": ("b", "c"), "files": {"b": xml(), "c": xml("b.jpg")}},
            r"image 2: file_name 'b\.jpg' is listed twice",
        ),
    ],
)
def test_lists_and_pictures_that_do_not_fit(tmp_path, made, message):
    with pytest.raises(DataError, match=message):
        load_voc(voc_folder(tmp_path, **made), 8)


def test_all_annotations_that_cannot_be_are_named_at_once(tmp_path):
    files = {"b": xml(corners=("x", 2, 3, 4)), "c": "<annotation>", "d": xml(size="", corners=(9, 9, 1, 1))}
    root = voc_folder(tmp_path, tuple(files), files, [f"{name}.jpg" for name in files])
    with pytest.raises(
        DataError, match=r"b\.xml, object 1: .*c\.xml is no .*d\.xml, object 1 .*\(3 faults in all"
    ):
        load_voc(root, 8)


def test_voc_without_a_size_is_in_the_stored_frame(tmp_path):
    root = voc_folder(tmp_path, files={"b": xml(size="")}, pictures=("b.png",))
    turned(root / "JPEGImages" / "b.png", 6)
    data = load_voc(root, 8)
    assert data.test.objects[0].size == (HEIGHT, WIDTH)
    assert data.test.images[0, 0, :, 1].min() > 200  # red on the left
