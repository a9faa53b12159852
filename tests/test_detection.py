"""Detection: data in COCO's and VOC's format, AP beside pycocotools, the problem's losses and roles."""

import contextlib
import io
import json
import math
from dataclasses import replace

import pytest
import tiny
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from minigslora import erasure, lora, methods, recipes
from minigslora.datasets import pictures, registry
from minigslora.datasets.detection import Objects, load_coco, load_voc, objects_of
from minigslora.datasets.rendered import mini_scenes
from minigslora.errors import ConfigError, DataError, ModelError
from minigslora.files import load_tensors, save_tensors
from minigslora.methods.base import Step
from minigslora.methods.finetune import FineTune
from minigslora.metrics import Boxes, average_precisions, coco_results, coco_truth, detection_metrics, with_h
from minigslora.models import checkpoint
from minigslora.models.detr import (
    DetectorConfig,
    deformable_detr,
    frozen_norms,
    keep_classes,
    keep_named,
    pretrained,
    trainable_norms,
)
from minigslora.pretraining import Pretraining, Recipe, make_checkpoint, pretrain, recipe_for
from minigslora.problems.detection import CHOICES, Detection, augment
from minigslora.reproduction import benchmark, published
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence
from minigslora.tasks import Progress, Setting, Task, class_order, plan, plan_requests
from minigslora.training import train_task

EVERYTHING = tuple(range(15))
QUICK = {"epochs": 1, "updates": 0, "batch_retain": 4, "batch_forget": 4, "rank": 2}


def task_of(problem, forget=(0, 1, 2), images=8):
    kept = tuple(c for c in EVERYTHING if c not in forget)
    return Task(
        "task1",
        0,
        tuple(forget),
        (),
        kept,
        retain_images=problem.training_images(kept)[:images],
        forget_images=problem.training_images(forget)[:images],
    )


def batch_of(problem, task, moves=None):
    images = {"retain": task.retain_images[:3], "forget": task.forget_images[:3]}
    return problem.batch({role: torch.tensor(rows) for role, rows in images.items()}, moves)


# --- rendered scenes ----------------------------------------------------------------------------------


def test_a_scene_depends_on_nothing_but_its_place():
    picture, objects = mini_scenes.render("main", "test", 7)
    again, same = mini_scenes.render("main", "test", 7)
    assert (picture == again).all()
    assert objects == same
    assert (picture != mini_scenes.render("tuning", "test", 7)[0]).any()
    few, many = (mini_scenes.coco("main", "test", n) for n in (3, 5))
    assert torch.equal(few[0], many[0][:3])
    assert few[1]["annotations"] == many[1]["annotations"][: len(few[1]["annotations"])]


def test_scenes_are_cached_as_coco_writes_them(data_root):
    data = mini_scenes.load(counts=tiny.SCENES)
    (folder,) = (f for f in (data_root / "mini-scenes").iterdir() if f.name.startswith("main-30-"))
    written = json.loads((folder / "train.json").read_text())
    assert [c["name"] for c in written["categories"]] == list(data.classes) == list(mini_scenes.SHAPES)
    assert len(data.classes) >= 12
    again = mini_scenes.kept(folder / "train.json")
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(again.objects, data.train.objects, strict=True))
    assert torch.equal(again.images, data.train.images)


def test_boxes_fit_what_was_drawn():
    for scene in range(6):
        picture, objects = mini_scenes.render("main", "val", scene)
        assert picture.shape == (3, 96, 96)
        assert 1 <= len(objects) <= mini_scenes.MOST_OBJECTS
        for _, (left, top, width, height) in objects:
            assert left >= 0 <= top
            assert left + width <= 96 >= top + height
            assert min(width, height) > 8


# --- COCO's and VOC's formats ---------------------------------------------------------------------------


@pytest.fixture
def coco_folder(tmp_path):
    """Write a small data set: ids with gaps, an image without boxes, a crowd, a box without extent."""
    stream = torch.Generator().manual_seed(0)
    for split, count in (("train2017", 20), ("val2017", 3)):
        (tmp_path / split).mkdir()
        images = [
            {"id": 100 + 7 * i, "file_name": f"{i}.png", "width": 40, "height": 20} for i in range(count)
        ]
        boxes = [
            {
                "id": 1,
                "image_id": 107,
                "category_id": 90,
                "bbox": [4, 5, 10.5, 10],
                "iscrowd": 0,
                "area": 105,
            },
            {"id": 2, "image_id": 107, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1, "area": 800},
            {"id": 3, "image_id": 114, "category_id": 3, "bbox": [3, 3, 0, 4], "iscrowd": 0, "area": 0},
            {"id": 4, "image_id": 114, "category_id": 11, "bbox": [3, 3, 6, 4], "iscrowd": 0, "area": 24},
        ]
        for i in range(count):
            noise = torch.randint(256, (20, 40, 3), generator=stream, dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(tmp_path / split / f"{i}.png")
        categories = [{"id": i, "name": f"category {i}"} for i in (3, 90, 11)]
        file = tmp_path / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return tmp_path


def test_coco_with_gaps_crowds_and_empty_images(coco_folder, monkeypatch):
    data = load_coco(coco_folder, 16)
    assert data.classes == ("category 3", "category 11", "category 90")
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 3)
    assert data.test.images.shape == (3, 3, 16, 16)
    empty, first, second = data.test.objects
    assert len(empty) == 0
    assert empty.targets()["boxes"].shape == (0, 4)
    assert first.labels.tolist() == [2, 0]
    assert first.crowd.tolist() == [False, True]
    assert first.targets()["class_labels"].tolist() == [2]
    assert first.targets()["boxes"][0].tolist() == pytest.approx([9.25 / 40, 0.5, 10.5 / 40, 0.5])
    assert second.labels.tolist() == [1]  # the box without extent is no object
    assert data.test.of_classes([0]).tolist() == []  # a crowd is no example
    assert data.test.of_classes([1, 2]).tolist() == [1, 2]
    monkeypatch.setattr(pictures, "IN_MEMORY", 0)
    lazy = registry.load_detection(coco_folder, 16)
    assert not isinstance(lazy.test.images, torch.Tensor)
    assert torch.equal(lazy.test.images[torch.arange(3)], data.test.images)
    assert lazy.test.images[torch.arange(0)].shape == (0, 3, 16, 16)
    assert torch.equal(lazy.test.to(torch.device("cpu")).images[torch.tensor([1])], data.test.images[1:2])


def test_coco_s_errors(coco_folder):
    with pytest.raises(DataError, match=r"annotation 9 has category_id 8, which 'categories' does not list"):
        objects_of([{"id": 9, "category_id": 8, "bbox": [0, 0, 1, 1]}], {1: 0}, (5, 5))
    with pytest.raises(DataError, match=r"bbox = \[0, 1\]; expected \[left, top, width, height\]"):
        objects_of([{"id": 9, "category_id": 1, "bbox": [0, 1]}], {1: 0}, (5, 5))
    for lacking, message in (({"bbox": [0, 0, 1, 1]}, "no 'category_id'"), ({"category_id": 1}, "no 'bbox'")):
        with pytest.raises(DataError, match=f"annotation 9 has {message}"):
            objects_of([{"id": 9, **lacking}], {1: 0}, (5, 5))
    broken = coco_folder / "annotations" / "instances_val2017.json"
    whole = broken.read_text()
    for text, message in (
        ("[", "val2017.json is not in COCO's format"),
        ("[1]", "val2017.json is not in COCO's format"),
        (whole.replace('"image_id"', '"image"'), "val2017.json is not in COCO's format"),
        (whole.replace('"width"', '"wide"'), "image 100 has no 'width'"),
    ):
        broken.write_text(text)
        with pytest.raises(DataError, match=message):
            load_coco(coco_folder, 16)
    broken.write_text(whole)
    (coco_folder / "val2017" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"val2017.1\.png is not a readable image \(.*; remove or"):
        load_coco(coco_folder, 16)
    file = coco_folder / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text().replace("category 11", "another"))
    with pytest.raises(DataError, match="list other categories"):
        load_coco(coco_folder, 16)
    file.unlink()
    with pytest.raises(DataError, match=r"no .*instances_val2017\.json; expected COCO's layout"):
        load_coco(coco_folder, 16)
    with pytest.raises(DataError, match=r"no detection data 'nothing': neither one of mini-scenes"):
        registry.load_detection("nothing")
    with pytest.raises(DataError, match=r"coco is not below .*: expected .*coco with annotations"):
        registry.load_detection("coco")
    with pytest.raises(DataError, match="mini-scenes is rendered at 96 pixels, not 64"):
        registry.load_detection("mini-scenes", 64)


VOC = """<annotation><filename>{stem}.png</filename><size><width>40</width><height>20</height></size>
<object><name>nut</name><bndbox><xmin>1.5</xmin><ymin>2.25</ymin><xmax>11.5</xmax><ymax>7.25</ymax></bndbox>
</object><object><name>bolt</name><difficult>1</difficult><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>4</xmax>
<ymax>4</ymax></bndbox></object></annotation>"""


@pytest.fixture
def voc_folder(tmp_path):
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (40, 20), (i, 0, 0)).save(tmp_path / "JPEGImages" / f"{i:03d}.png")
        (tmp_path / "Annotations" / f"{i:03d}.xml").write_text(VOC.format(stem=f"{i:03d}"))
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(f"{i:03d}" for i in range(10)))
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("010\n011\n")
    return tmp_path


def test_voc_is_converted_with_fractions_of_a_pixel(voc_folder):
    data = registry.load_detection(voc_folder, 8)
    assert data.classes == ("bolt", "nut")
    assert (len(data.train), len(data.val), len(data.test)) == (9, 1, 2)
    nut = data.test.objects[0]
    assert nut.boxes[0].tolist() == [1.5, 2.25, 10.0, 5.0]
    assert nut.crowd.tolist() == [False, True]  # what is difficult counts neither way
    assert nut.size == (20, 40)
    assert data.test.images[1, 0].unique().tolist() == [11]


def test_voc_s_errors(voc_folder):
    (voc_folder / "Annotations" / "003.xml").write_text(
        VOC.format(stem="003").replace("<ymin>2.25</ymin>", "")
    )
    with pytest.raises(DataError, match="has no <bndbox><ymin> in its <object>; add it"):
        load_voc(voc_folder, 8)
    (voc_folder / "Annotations" / "003.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"003\.xml is no readable annotation .*; expected VOC's XML"):
        load_voc(voc_folder, 8)
    (voc_folder / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(DataError, match=r"has neither test\.txt nor val\.txt; add a list of image names"):
        load_voc(voc_folder, 8)


def test_foda_is_read(voc):
    data = load_voc(voc, 32)
    assert len(data.classes) == 31
    assert all((o.boxes[:, 2:] > 0).all() for o in data.train.objects)
    assert any((o.boxes % 1 != 0).any() for o in data.train.objects)


# --- average precision ------------------------------------------------------------------------------------


def judged_by_pycocotools(found, objects, classes):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_truth(objects, classes)
        truth.createIndex()
        judged = COCOeval(truth, truth.loadRes(coco_results(found)), "bbox")
        judged.evaluate()
        judged.accumulate()
    precision = torch.from_numpy(judged.eval["precision"][:, :, :, 0, -1]) * 100
    precision[precision < 0] = torch.nan
    return {"ap": precision.mean(dim=(0, 1)), "ap50": precision[0].mean(dim=0)}


def drawn_detections(objects, classes, seed=0):
    """Return boxes around the true ones and elsewhere, with some wrong labels."""
    stream = torch.Generator().manual_seed(seed)
    found = []
    for own in objects:
        near = own.boxes.repeat(3, 1) * (1 + 0.15 * torch.randn(3 * len(own), 4, generator=stream))
        far = torch.rand(10, 4, generator=stream) * 30 + 2
        labels = torch.cat([own.labels.repeat(3), torch.randint(classes, (10,), generator=stream)])
        boxes = torch.cat([near, far]).abs()
        found.append(Boxes(boxes, labels, torch.rand(len(boxes), generator=stream)))
    return found


def assert_same_precisions(found, objects, classes):
    ours, theirs = average_precisions(found, objects, classes), judged_by_pycocotools(found, objects, classes)
    for key in ours:
        assert torch.allclose(ours[key], theirs[key], rtol=0, atol=1e-12, equal_nan=True), key
    return ours


def test_ap_agrees_with_pycocotools_crowds_and_empty_images_included():
    objects = list(mini_scenes.load(counts=tiny.SCENES).test.objects)
    objects[0] = replace(objects[0], crowd=torch.ones(len(objects[0]), dtype=torch.bool))
    nothing = torch.zeros(0)
    objects[1] = Objects(nothing.reshape(0, 4), nothing.long(), nothing.bool(), (96, 96))
    ours = assert_same_precisions(drawn_detections(objects, 16), objects, 16)
    assert 5 < float(ours["ap50"].nanmean()) < 95
    assert ours["ap50"][15].isnan()  # no object of it


def test_ap_agrees_with_pycocotools_on_coco(coco):
    data = load_coco(coco, 64)
    assert len(data.classes) == 80
    assert any(o.crowd.any() for o in (*data.train.objects, *data.test.objects))
    assert_same_precisions(drawn_detections(data.test.objects, 80), list(data.test.objects), 80)


def test_a_detector_that_finds_nothing_has_ap_0():
    objects = list(mini_scenes.load(counts=tiny.SCENES).test.objects)
    nothing = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    found = average_precisions([nothing] * len(objects), objects, 15)
    assert float(found["ap"].nansum()) == 0


def test_metrics_by_subset():
    precisions = {
        "ap": torch.tensor([10.0, 20, 30, torch.nan]),
        "ap50": torch.tensor([40.0, 50, 60, torch.nan]),
    }
    task = Task("task2", 1, (1,), (2,), (0, 3))
    now = detection_metrics(precisions, task)
    assert now == {"ap_r": 10, "ap_f": 20, "ap_o": 30, "ap50_r": 40, "ap50_f": 50, "ap50_o": 60}
    after = with_h(now, {**now, "ap_f": 0.0, "ap50_f": 10.0})
    assert (after["drop"], after["drop50"]) == (20, 40)
    assert after["h"] == pytest.approx(2 * 10 * 20 / 30)
    assert after["h50"] == pytest.approx(40)
    assert (after["ap50_r_before"], after["ap50_f_before"]) == (40, 50)
    with pytest.raises(DataError, match=r"no object of the 1 forgotten classes \(3\), so their average pr"):
        detection_metrics(precisions, replace(task, forget=(3,)))


# --- the problem ------------------------------------------------------------------------------------------


def test_the_loss_of_a_whole_image_is_transformers_own():
    problem = tiny.detection()
    problem.begin(Task("task1", 0, (), (), EVERYTHING))
    batch = problem.batch({"retain": torch.arange(6)})
    losses = problem.losses(problem.forward(batch), batch)
    problem.model.config.auxiliary_loss = False
    seen = torch.ones(6, 96, 96, dtype=torch.long)
    theirs = problem.model(pixel_values=batch.inputs, pixel_mask=seen, labels=batch.targets)
    assert float(losses.total.detach().mean()) == pytest.approx(float(theirs.loss.detach()), rel=1e-5)
    assert float(losses.bounded.mean()) == pytest.approx(float(theirs.loss_dict["loss_ce"]), rel=1e-5)


def test_the_released_code_weighs_the_classification_twice():
    losses = {}
    for recipe in ("corrected", "released"):
        problem = tiny.detection(recipe=recipe)
        problem.begin(Task("task1", 0, (), (), EVERYTHING))
        batch = problem.batch({"retain": torch.arange(6)})
        losses[recipe] = problem.losses(problem.forward(batch), batch)
    assert torch.allclose(losses["released"].bounded, 2 * losses["corrected"].bounded)
    ours, theirs = (losses[r].total - losses[r].bounded for r in ("corrected", "released"))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("recipe", ["corrected", "released"])
def test_what_an_image_is_asked_for(recipe):
    problem = tiny.detection(recipe=recipe)
    task = task_of(problem)
    problem.begin(task)
    batch = batch_of(problem, task)
    own = problem.matches(problem.forward(batch), batch)
    for place, (target, all_of_it) in enumerate(zip(own.targets, batch.targets, strict=True)):
        wanted = task.retain if place < 3 else task.forget
        labels = all_of_it["class_labels"]
        mine = torch.tensor([int(c) in wanted for c in labels])
        assert torch.equal(target["class_labels"], labels[mine])
        queries, objects = own.pairs[place]
        assert sorted(objects.tolist()) == list(range(len(target["class_labels"])))
        others = int((~mine).sum()) if recipe == "corrected" and place >= 3 else 0
        assert int(own.ignored[place].sum()) == others
        assert not own.ignored[place][queries].any()


def test_what_was_forgotten_is_background_in_retained_images():
    """A retained image is trained as one whose forgotten objects were never annotated."""
    problem = tiny.detection()
    task = replace(task_of(problem), old=(3,), retain=tuple(range(4, 15)))
    problem.begin(task)
    batch = problem.batch({"retain": torch.arange(6)})
    kept = [t["class_labels"] > 3 for t in batch.targets]
    assert not all(mine.all() for mine in kept)
    bare = [{k: v[mine] for k, v in t.items()} for t, mine in zip(batch.targets, kept, strict=True)]
    outputs = problem.forward(batch)
    losses = problem.losses(outputs, batch)
    alone = problem.losses(replace(outputs, own=None), replace(batch, targets=bare))
    assert torch.equal(losses.total, alone.total)
    problem.choices = replace(problem.choices, gone="ignore")
    assert not torch.equal(problem.losses(replace(outputs, own=None), batch).bounded, losses.bounded)


def test_other_objects_are_neither_target_nor_background():
    problem = tiny.detection()
    problem.choices = replace(problem.choices, gone="ignore")
    task = task_of(problem)
    problem.begin(task)
    batch = batch_of(problem, task)
    outputs = problem.forward(batch)
    outputs.logits.retain_grad()
    outputs.boxes.retain_grad()
    own = problem.matches(outputs, batch)
    assert own.ignored.any()
    problem.losses(outputs, batch).total.sum().backward()
    assert not outputs.logits.grad[own.ignored].any()
    assert not outputs.boxes.grad[own.ignored].any()
    assert outputs.logits.grad[:3][~own.ignored[:3]].any(dim=1).all()


def test_what_is_bounded_is_the_focal_loss_of_the_matched_queries():
    problem = tiny.detection()
    task = task_of(problem)
    problem.begin(task)
    batch = batch_of(problem, task)
    outputs = problem.forward(batch)
    for handicap in (0.0, 3.0):
        losses = problem.losses(outputs, batch, handicap=handicap)
        own = problem.matches(outputs, batch)
        for i in range(3, 6):
            queries, objects = own.pairs[i]
            z = outputs.logits[i, queries, own.targets[i]["class_labels"][objects]].double() - handicap
            focal = (1 - z.sigmoid()) ** 2 * -torch.nn.functional.logsigmoid(z)
            assert float(losses.bounded[i]) == pytest.approx(float(focal.mean()), rel=1e-5)
        assert not losses.plain[3:].any()  # nothing is taught of where it is
    assert problem.chance == pytest.approx(4.60517)
    assert problem.margin == 0.0


def test_the_released_recipe_bounds_twice_the_focal_loss_of_all_queries():
    problem = tiny.detection(recipe="released")
    task = task_of(problem)
    problem.begin(task)
    batch = batch_of(problem, task)
    outputs = problem.forward(batch)
    found = problem.losses(outputs, batch)
    kept = replace(batch, sizes={"retain": 6})
    problem.asked["retain"] = problem.asked["forget"]
    problem.choices = replace(problem.choices, focal=1.0)
    outputs.own = None
    batch.targets[:3] = [{k: v[:0] for k, v in t.items()} for t in batch.targets[:3]]
    whole = problem.losses(outputs, kept)
    assert torch.allclose(found.bounded[3:], whole.bounded[3:] * 2 * scale(kept, problem, outputs), rtol=1e-4)
    assert found.plain[3:].all()


def scale(batch, problem, outputs):
    """Return by how much the mean number of objects of all six images is below that of the last three."""
    counts = [len(t["class_labels"]) for t in problem.matches(outputs, batch).targets]
    return max(1, sum(counts) / 6) / max(1, sum(counts[3:]) / 3)


def test_vectors_are_of_matched_objects_in_their_order():
    problem = tiny.detection()
    task = task_of(problem)
    problem.begin(task)
    batch = batch_of(problem, task)
    outputs = problem.forward(batch)
    own = problem.matches(outputs, batch)
    for role, images in (("retain", range(3)), ("forget", range(3, 6))):
        vectors, labels = problem.vectors(outputs, batch, "logits", role)
        assert labels.tolist() == [int(c) for i in images for c in own.targets[i]["class_labels"]]
        embedding, _ = problem.vectors(outputs, batch, "embedding", role)
        assert torch.allclose(problem.head(embedding), vectors, atol=1e-5)
    assert problem.vectors(outputs, batch, "logits", "retain2") is None
    assert torch.equal(problem.class_rows("embedding"), problem.head.weight)
    assert problem.class_rows("logits").shape == (15, 15)


def test_a_flip_moves_picture_and_boxes_together():
    problem = tiny.detection()
    targets = [o.targets() for o in problem.data.train.objects[:8]]
    images = problem.data.train.images[:8]
    moved, boxes = augment(images, targets, torch.Generator().manual_seed(1))
    turned = [not torch.equal(a["boxes"], b["boxes"]) for a, b in zip(targets, boxes, strict=True)]
    assert 0 < sum(turned) < 8
    for i, flipped in enumerate(turned):
        plain = images[i].flip(-1) if flipped else images[i]
        stacked = torch.stack([moved[i].flatten(), plain.flatten().float()])
        assert float(torch.corrcoef(stacked)[0, 1]) > 0.97
        assert torch.allclose(boxes[i]["boxes"][:, 1:], targets[i]["boxes"][:, 1:])


def test_the_problem_s_errors():
    with pytest.raises(ModelError, match="is no detector that is known here"):
        Detection(tiny.face_model(), mini_scenes.load(counts=tiny.SCENES))
    with pytest.raises(ModelError, match="head has 4 classes but mini-scenes has 15"):
        Detection(tiny.detector(classes=4), mini_scenes.load(counts=tiny.SCENES))


# --- the model --------------------------------------------------------------------------------------------


def test_groups_are_the_layers_of_encoder_and_decoder():
    model = deformable_detr(replace(tiny.DETECTOR, layers=6))
    lora.inject(model)
    lora.attach(model, "task1", rank=2)
    names = [f"model.{part}.layers.{i}" for part in ("encoder", "decoder") for i in range(6)]
    groups = lora.groups(model, "task1")
    assert [group.name for group in groups] == names
    assert {len(group.pairs) for group in groups} == {2}
    assert lora.find_linears(tiny.detector(), "attention")


def test_the_erased_detector_loads_strictly_into_transformers(tmp_path):
    problem = tiny.detection()
    lora.inject(problem.model)
    tiny.attach_drawn(problem.model, "task1")
    path = erasure.finalize(problem.model, tmp_path / "erased.safetensors")
    plain = tiny.detector(seed=9)
    plain.load_state_dict(load_tensors(path)[0], strict=True)
    images = problem.normalise(problem.data.test.images[:3])
    with torch.no_grad():
        ours, theirs = problem.outputs(images, problem.model.eval()), problem.outputs(images, plain)
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-4)
    assert torch.allclose(ours.boxes, theirs.boxes, atol=1e-4)


def test_a_saved_detector_is_read_without_a_network_and_keeps_chosen_rows(tmp_path):
    model = tiny.detector()
    model.save_pretrained(tmp_path / "detr")
    again = pretrained(tmp_path / "detr")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    keep_classes(again, [4, 2])
    assert again.config.num_labels == 2
    assert torch.equal(again.class_embed[-1].weight, model.class_embed[-1].weight[[4, 2]])
    with pytest.raises(ModelError, match="the classifier has no row 7; its rows are 0 to 1"):
        keep_classes(again, [7])
    with pytest.raises(ModelError, match=r"no Deformable DETR at .*; give a folder with"):
        pretrained(tmp_path)
    with pytest.raises(ConfigError, match="layers = 1; expected 2 or more"):
        deformable_detr(DetectorConfig(layers=1))
    with pytest.raises(ConfigError, match="dim = 32; expected a multiple of 96, of 32 groups of a norm"):
        deformable_detr(DetectorConfig(dim=32, heads=3))


def test_a_detector_of_more_categories_keeps_the_rows_of_the_data_s(tmp_path):
    model = tiny.detector(classes=18)
    names = ["N/A", *reversed(mini_scenes.SHAPES), "N/A", "hat"]
    model.config.id2label = dict(enumerate(names))
    model.save_pretrained(tmp_path)
    again, card = benchmark.load_model("coco", str(tmp_path / "model.safetensors"))
    assert card.classes == tuple(names)
    data = mini_scenes.load(counts=tiny.SCENES)
    problem = benchmark.problem_of(again, card, data, "released", "cpu")
    rows = [names.index(c) for c in data.classes]
    assert torch.equal(problem.head.weight, model.class_embed[-1].weight[rows])
    assert problem.choices == CHOICES["released"]
    with pytest.raises(ModelError, match="the detector knows no 'hat'"):
        keep_named(again, data.classes, ["hat"])
    # What is made of it says what it is: the rows it has now, and no file beside it is needed.
    (tmp_path / "erased").mkdir()
    erased = erasure.finalize(problem.model, tmp_path / "erased" / "erased.safetensors")
    found, own = checkpoint.load(erased)
    assert (own.classes, own.mean) == (data.classes, card.mean)
    images = problem.normalise(data.test.images[:2])
    with torch.no_grad():
        one, other = (problem.outputs(images, m.eval()) for m in (problem.model, found))
    assert torch.allclose(one.logits, other.logits, atol=1e-4)  # one reads small maps the quick way
    plain = type(problem.model)(problem.model.config)
    plain.load_state_dict(load_tensors(erased)[0], strict=True)


def test_norms_are_learnt_and_frozen_again():
    model = tiny.detector()
    keys = list(model.state_dict())
    trainable_norms(model)
    model.train()
    problem = tiny.detection()
    problem.model = model
    problem.outputs(problem.normalise(problem.data.train.images[:4]), model)
    kept = {k: v.clone() for k, v in model.state_dict().items() if "running_mean" in k}
    frozen_norms(model)
    assert list(model.state_dict()) == keys
    assert all(torch.equal(model.state_dict()[k], v) and v.any() for k, v in kept.items())


def test_half_precision_loses_nothing_of_halved_weights(tmp_path):
    model = tiny.detector()
    checkpoint.halve(model)
    card = checkpoint.Card({"kind": "deformable-detr", **vars(tiny.DETECTOR)})
    checkpoint.save(tmp_path / "m.safetensors", model, card, half=True)
    again, _ = checkpoint.load(tmp_path / "m.safetensors")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_tied_weights_are_written_under_each_name(tmp_path):
    layer = torch.nn.Linear(3, 3)
    save_tensors(tmp_path / "t.safetensors", {"a": layer.weight, "b": layer.weight}, {})
    tensors, _ = load_tensors(tmp_path / "t.safetensors")
    assert torch.equal(tensors["a"], tensors["b"])


def test_pre_training_a_detector(tmp_path, monkeypatch):
    scenes = mini_scenes.load(counts=tiny.SCENES)
    monkeypatch.setattr("minigslora.pretraining.registry.load_detection", lambda *_: scenes)
    recipe = Recipe(tiny.DETECTOR, Pretraining(epochs=2, batch=8, precision="fp32"))
    record = make_checkpoint("mini-scenes", recipe, tmp_path / "m.safetensors", "cpu")
    assert {"ap50_val", "ap50_test", "ap_test", "seconds"} <= set(record["metrics"])
    model, card = checkpoint.load(tmp_path / "m.safetensors")
    assert card.classes == scenes.classes
    assert Detection(model, scenes, device="cpu").accuracy("test") == pytest.approx(
        record["metrics"]["ap50_test"], abs=0.01
    )
    history = pretrain(tiny.detection(), Pretraining(epochs=3, batch=8, lr=2e-3), evaluate_every=1)
    assert history[-1].loss < history[0].loss


def test_recipes_of_detectors():
    assert recipe_for("voc", "cpu").start == "mini-scenes"
    assert recipe_for("voc", "cpu", image_size=96, epochs=2).start == "mini-scenes"
    assert recipe_for("voc", "cpu", depth=3).start == ""
    assert recipe_for("mini-scenes", "cpu", dim=192).model.dim == 192
    with pytest.raises(ConfigError, match="depth = 0; expected 1 or more"):
        recipe_for("mini-scenes", "cpu", depth=0)
    with pytest.raises(ConfigError, match="dim = 48; expected a multiple of 96"):
        deformable_detr(recipe_for("mini-scenes", "cpu", dim=48).model)


# --- forgetting -------------------------------------------------------------------------------------------


def test_images_with_several_classes_are_at_hand_once():
    data = mini_scenes.load(counts=tiny.SCENES)
    first = plan(data, Setting(requests=(3, 3), shots=2, preset="coco/sequence"), seed=0).tasks[0]
    assert len(set(first.retain_images)) == len(first.retain_images)
    for c in first.forget:
        shown = set(data.train.of_classes([c]).tolist())
        assert len(shown & set(first.forget_images)) >= 2
    assert Setting(preset="coco/sequence").kind == "coco/sequence"


def test_the_published_order_of_categories():
    order = class_order(80, seed=5, published=123, shuffle="numpy")
    assert sorted(order) == list(range(80))
    assert order == class_order(80, seed=6, published=123, shuffle="numpy")
    assert order != class_order(80, seed=5, published=123)


def test_the_released_setting():
    method = methods.create("gslora++", "released", "coco/sequence")
    assert method.beta == (0.15, 0.15, 0.35, 0.6, 0.15, 0.2, 0.2)
    assert (method.bound, method.push_bound, method.prototypes) == (15, 18, "rows")
    assert (method.training.lr, method.training.schedule, method.training.clip) == (3e-4, "constant", 0.1)
    assert methods.create("gslora", "released", "coco/sequence").training.epochs == 30


@pytest.mark.parametrize("name", ["gslora", "gslora++", "gslora-distill"])
def test_the_corrected_recipe_has_constants_of_its_own_for_a_detector(name):
    made = methods.create(name, setting=published.table("coco").scenario("sequence").setting.kind)
    own = recipes.setting("coco/sequence", "corrected")
    for key, value in own.choices.items():
        if hasattr(made, key):
            assert getattr(made, key) == (tuple(value) if isinstance(value, list) else value)
    assert {key: getattr(made.training, key) for key in own.loop} == own.loop
    assert made.training.updates > 0


DEFINED = ("gslora", "gslora++", "gslora-distill", "lora", "finetune", "gradient-ascent", "scrub", "retrain")


@pytest.mark.parametrize("name", DEFINED)
def test_methods_that_need_no_labels_of_images_serve_detection(name):
    problem = tiny.detection()
    settings = {k: v for k, v in QUICK.items() if k != "rank" or "lora" in name}
    terms = train_task(
        problem, methods.create(name, setting="coco/sequence", **settings), task_of(problem), Streams(0)
    )
    assert terms
    assert all(torch.isfinite(torch.tensor(v)) for v in terms.values())


@pytest.mark.parametrize("name", ["l2", "ewc", "mas", "lwf", "der", "der++", "fdr", "lirf"])
def test_methods_that_relabel_say_that_they_are_not_defined(name):
    problem = tiny.detection()
    with pytest.raises(
        ConfigError, match=rf"{name.replace('+', '[+]')} is not defined for detection, only for"
    ):
        train_task(problem, methods.create(name, setting="coco/sequence"), task_of(problem), Streams(0))


def test_erasing_rows_of_the_head_silences_a_category():
    problem = tiny.detection()
    method = methods.create("head-only", setting="coco/sequence")
    train_task(problem, method, task_of(problem), Streams(0))
    assert problem.precisions("test")["ap50"][:3].nansum() == 0


def test_prototypes_from_the_classifier_s_rows():
    problem = tiny.detection()
    method = methods.create(
        "gslora++", setting="coco/sequence", prototypes="rows", space="embedding", **QUICK
    )
    task = task_of(problem)
    problem.begin(task)
    method.begin(problem, task, Streams(0))
    assert torch.equal(method.centres, problem.class_rows("embedding"))
    batch = batch_of(problem, task)
    terms = tiny.loss_terms(method, problem, batch)
    assert terms["push"] >= 0
    assert torch.isfinite(terms["pull"])


@pytest.mark.parametrize("recipe", ["corrected", "released"])
def test_a_stopped_sequence_gives_the_numbers_of_one_that_was_not(tmp_path, recipe):
    def served(out, tasks):
        problem = tiny.detection(recipe=recipe)
        whole = plan(problem.data, Setting(requests=(2, 2), shots=2, preset="coco/sequence"), seed=0)
        method = methods.create("gslora++", recipe, "coco/sequence", **QUICK)
        asked = replace(whole, tasks=whole.tasks[:tasks])
        return problem, forget_sequence(problem, method, asked, out=out)

    problem, whole = served(tmp_path / "a", 2)
    served(tmp_path / "b", 2)
    for part in ("task2.json", "task2.safetensors"):
        (tmp_path / "b" / part).unlink()
    again, taken_up = served(tmp_path / "b", 2)
    assert [r.metrics for r in whole] == [r.metrics for r in taken_up]
    one, other = (lora.adapter_state(p.model) for p in (problem, again))
    assert all(torch.equal(v, other[k]) for k, v in one.items())
    assert {"ap_r", "ap50_f", "h", "h50", "ap50_o"} <= set(whole[1].metrics)


def test_one_request_on_coco(coco):
    """A detector of its 80 categories, trained for a moment: loader, evaluation, one request."""
    data = load_coco(coco, 64)
    problem = Detection(tiny.detector(classes=80, image_size=64), data, device="cpu")
    seen = [c for c in range(80) if len(data.train.of_classes([c]))]
    there = {int(c) for o in data.test.objects for c in o.labels}
    forget = [c for c in sorted(seen, key=lambda c: -len(data.train.of_classes([c]))) if c in there][:2]
    missing = [c for c in range(80) if c not in seen]
    whole = plan_requests(data, [forget], Setting(requests=(2,), shots=1), seed=0, missing=missing)
    method = methods.create("gslora++", setting="coco/sequence", **QUICK)
    (report,) = forget_sequence(problem, method, whole)
    assert {"ap_r", "ap50_f", "ap50_m", "h50"} <= set(report.metrics)
    assert_same_precisions(problem.detect("test"), list(data.test.objects), 80)


@pytest.mark.gpu
def test_detection_on_a_gpu():
    problem = tiny.detection(device="cuda")
    train_task(
        problem, methods.create("gslora++", setting="coco/sequence", **QUICK), task_of(problem), Streams(0)
    )
    assert problem.precisions("test")["ap"].shape == (15,)


@pytest.mark.parametrize(
    ("recipe", "per_sample", "hidden"),
    [("corrected", True, False), ("corrected", False, True), ("released", False, True)],
)
def test_an_object_far_above_the_bound_hides_no_other_one_in_its_image(recipe, per_sample, hidden):
    problem, bound = tiny.detection(recipe=recipe), 6.0
    task = task_of(problem, forget=EVERYTHING[1:])
    problem.begin(task)
    batch = batch_of(problem, task)
    outputs = problem.forward(batch)
    own = problem.matches(outputs, batch)
    image = next(i for i in range(3, 6) if len(own.pairs[i][0]) > 1)
    logits = torch.full_like(outputs.logits, -20.0)  # every other image's objects are forgotten
    query, label = own.pairs[image][0], own.targets[image]["class_labels"][own.pairs[image][1]]
    logits[image, query[0], label[0]] = -900.0  # forgotten long ago
    logits[image, query[1], label[1]] = 3.0  # still recognised
    logits.requires_grad_()
    outputs = replace(outputs, logits=logits, boxes=outputs.boxes.detach(), own=own)
    method = FineTune(per_sample=per_sample, margin_forget=False, relative=False, bound=bound)
    method.set_bound(problem, 1.0)
    step = Step(method, problem, batch, Progress())
    step.outputs = outputs
    term = method.loss(step)["forget"]
    (slope,) = torch.autograd.grad(term, logits)
    pushed = slope[image, query[1], label[1]]
    assert float(pushed) == 0 if hidden else float(pushed) > 0
    assert not slope[image, query[0], label[0]]
    if recipe == "corrected" and not hidden:
        focal = (1 - 1 / (1 + math.exp(-3))) ** 2 * math.log(1 + math.exp(-3))
        assert float(term) == pytest.approx((bound - focal) / len(query) / 3, rel=1e-5)


def test_where_every_object_is_below_the_bound_its_mean_is_what_counts():
    problem = tiny.detection()
    task = task_of(problem)
    problem.begin(task)
    batch = batch_of(problem, task)
    losses = problem.losses(problem.forward(batch), batch)
    assert torch.allclose(losses.short_of(99.0)[3:], 99.0 - losses.bounded[3:])
    alone = [i for i in range(3, 6) if len(batch.targets[i]["class_labels"]) == 1]
    assert torch.allclose(losses.short_of(4.0)[alone], (4.0 - losses.bounded[alone]).relu())
