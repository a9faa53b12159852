"""Self-checks of notebooks 07 to 11: the benchmarks, the baselines, ablations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigslora import lora
from minigslora.course.checks.common import Demands, close
from minigslora.methods.base import Training
from minigslora.models.vit import FaceConfig, face_transformer
from minigslora.rng import Streams
from minigslora.tasks import Task
from minigslora.training import EpochOrder

# --- notebook 07, face benchmark ------------------------------------------------------------------


def exercise_07_1(accuracy: Callable[[Tensor, Tensor, float], float]) -> Demands:
    """Check an accuracy with margin, and that the cosines are left as they were."""
    stream = torch.Generator().manual_seed(71)
    cosines = 0.3 * torch.randn(40, 6, generator=stream, dtype=torch.float64)
    labels = torch.randint(6, (40,), generator=stream)
    cosines[torch.arange(40), labels] += 0.4
    lead = cosines.gather(1, labels[:, None]) - cosines.scatter(1, labels[:, None], -9.0).amax(1, True)
    kept = cosines.clone()
    for m in (0.0, 0.35):
        hint = "Only the true class's cosine is lowered by m; is yours in percent?"
        expected = 100 * float((lead > m).double().mean())
        yield math.isclose(accuracy(cosines, labels, m), expected, rel_tol=1e-5), hint
        yield torch.equal(cosines, kept), "Your function changes the cosines it is given; work on a copy."


def exercise_07_2(left_over: Callable[[float, float, float], float]) -> Demands:
    """Check what is left of the forgotten classes, found from Acc_r and H."""
    for acc_r, acc_f_before, acc_f in ((70.0, 75.0, 5.0), (85.0, 60.0, 0.0), (40.0, 80.0, 50.0)):
        drop = acc_f_before - acc_f
        h = 1 / ((1 / acc_r + 1 / drop) / 2)
        hint = "Solve H = 2 · Acc_r · Drop / (Acc_r + Drop) for Drop; Acc_f is the rest."
        yield math.isclose(left_over(acc_r, h, acc_f_before), acc_f, abs_tol=1e-6), hint


def exercise_07_3(compare: Callable[[list[float], list[float]], tuple[float, float]]) -> Demands:
    """Check a paired mean difference and its standard error."""
    a, b = [71.0, 74.5, 69.0, 73.0], [70.0, 73.9, 67.5, 72.5]
    mean, error = compare(a, b)
    yield math.isclose(mean, 0.9, rel_tol=1e-6), "Average the differences, seed by seed."
    expected = (sum((d - 0.9) ** 2 for d in (1.0, 0.6, 1.5, 0.5)) / 3 / 4) ** 0.5
    hint = "The standard deviation of the differences, over the root of their number."
    yield math.isclose(error, expected, rel_tol=1e-6), hint


def exercise_07_4(worst: Callable[[Tensor, Tensor], tuple[float, float]]) -> Demands:
    """Check the margin at which an edit looks worst, against a fine sweep of margins."""
    stream = torch.Generator().manual_seed(74)
    before = 0.4 + 0.2 * torch.randn(50, generator=stream, dtype=torch.float64)
    after = before - 0.1 * torch.rand(50, generator=stream, dtype=torch.float64)

    def fall(m: float) -> float:
        return 100 * float((before > m).double().mean() - (after > m).double().mean())

    m, found = worst(before, after)
    yield m >= 0, f"Your margin is {m:.3f}; it cannot be negative."
    yield math.isclose(found, fall(m), abs_tol=1e-5), f"At your margin {m:.3f} the fall is another."
    largest = max(fall(k / 20000) for k in range(20000))
    hint = f"The fall at your margin is {found:.1f} points; there is one with {largest:.1f}."
    yield found >= largest - 1e-9, hint


# --- notebook 08, image classification ------------------------------------------------------------


def exercise_08_1(
    slice_rows: Callable[[Tensor, Tensor, list[str], list[str]], tuple[Tensor, Tensor]],
) -> Demands:
    """Check that a sliced head gives the whole head's logits of the wanted classes, in their order."""
    stream = torch.Generator().manual_seed(81)
    weight, bias = torch.randn(7, 5, generator=stream), torch.randn(7, generator=stream)
    embedding, classes, wanted = torch.randn(3, 5, generator=stream), list("abcdefg"), ["f", "a", "d"]
    rows, values = slice_rows(weight, bias, classes, wanted)
    yield tuple(rows.shape) == (3, 5), f"The weight is {tuple(rows.shape)}; one row a wanted class."
    yield tuple(values.shape) == (3,), f"The bias is {tuple(values.shape)}; one value a wanted class."
    whole = embedding @ weight.T + bias
    expected = torch.stack([whole[:, classes.index(name)] for name in wanted], dim=1)
    hint = "The logits are not those of the whole head; are the rows in the order of the wanted names?"
    yield close(embedding @ rows.T + values, expected, hint)


def exercise_08_2(change_of: Callable[[Tensor, Tensor], tuple[float, float]]) -> Demands:
    """Check the change of an accuracy and its standard error, picture by picture."""
    before = torch.tensor([True] * 70 + [False] * 30)
    after = torch.tensor([True] * 61 + [False] * 9 + [True] * 4 + [False] * 26)
    kept = before.clone()
    change, error = change_of(before, after)
    yield torch.equal(before, kept), "Your function changes the tensors it is given."
    yield math.isclose(change, -5.0, rel_tol=1e-6), "9 pictures were lost and 4 won, of 100."
    steps = 100 * (after.double() - before.double())
    expected = float(steps.std(correction=0)) / len(steps) ** 0.5
    hint = "It is the spread of each picture's own change (−100, 0 or +100), over √n."
    yield math.isclose(error, expected, rel_tol=1e-6), hint


def exercise_08_3(leaving: Callable[[Tensor, tuple[int, ...]], float]) -> Demands:
    """Check the share of answers outside the task, on made-up logits."""
    logits = torch.eye(6)[[0, 5, 2, 3, 3, 1, 4, 4]]
    for rows, expected in (((0, 2, 4), 50.0), ((5,), 87.5), (tuple(range(6)), 0.0)):
        given = leaving(logits, rows)
        hint = (
            f"With the task's rows {rows} it gave {given}; count answers that are none of them, in percent."
        )
        yield math.isclose(given, expected, abs_tol=1e-4), hint


def exercise_08_4(prototypes: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Demands:
    """Check prototypes of classes with and without images."""
    stream = torch.Generator().manual_seed(84)
    weight, bias = torch.randn(4, 6, generator=stream), torch.randn(4, generator=stream)
    outputs, labels = torch.randn(5, 4, generator=stream), torch.tensor([2, 0, 2, 2, 0])
    given = prototypes(outputs, labels, weight, bias)
    yield tuple(given.shape) == (4, 4), f"The shape is {tuple(given.shape)}; a row a class, in logits."
    means = torch.stack([outputs[[1, 4]].mean(0), outputs[[0, 2, 3]].mean(0)])
    hint = "A class with images has the mean of their outputs."
    yield torch.allclose(given[[0, 2]], means, atol=1e-5), hint
    head = nn.Linear(6, 4)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        expected = head(weight)[[1, 3]]
    yield close(given[[1, 3]], expected, "For a class without images, feed its own row to the head.", 1e-4)


# --- notebook 09, object detection ----------------------------------------------------------------


def exercise_09_1(iou: Callable[[list[float], list[float]], float]) -> Demands:
    """Check an intersection over union against one counted on a fine grid of points."""
    cases = (
        ([2.0, 2.0, 6.0, 4.0], [4.0, 3.0, 8.0, 6.0]),
        ([0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 2.0, 2.0]),
        ([0.0, 0.0, 3.0, 3.0], [5.0, 1.0, 2.0, 2.0]),
    )
    axis = torch.arange(0, 14, 0.05, dtype=torch.float64) + 0.025
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    for a, b in cases:
        one, other = ((x > u[0]) & (x < u[0] + u[2]) & (y > u[1]) & (y < u[1] + u[3]) for u in (a, b))
        counted = float((one & other).sum() / (one | other).sum())
        hint = f"For {a} and {b} it should be {counted:.3f}; is the overlap of boxes that do not meet 0?"
        yield math.isclose(iou(a, b), counted, abs_tol=2e-3), hint


def exercise_09_2(average_precision: Callable[[Tensor, Tensor, int], float]) -> Demands:
    """Check an average precision against COCO's evaluation."""
    from minigslora.datasets.detection import Objects
    from minigslora.metrics import Boxes, average_precisions

    stream = torch.Generator().manual_seed(92)
    for count in (3, 8, 20):
        hits = torch.rand(count, generator=stream) < 0.6
        scores = torch.rand(count, generator=stream)
        objects = int(hits.sum()) + 2
        places = torch.arange(count + 2, dtype=torch.float32) * 20
        truth = torch.stack([places, places, places * 0 + 10, places * 0 + 10], dim=1)
        there = torch.cat([truth[:count][hits], truth[count:]])
        zeros = torch.zeros(len(there), dtype=torch.long)
        image = Objects(there, zeros, zeros.bool(), (900, 900))
        found = Boxes(truth[:count], torch.zeros(count, dtype=torch.long), scores)
        expected = float(average_precisions([found], [image], 1)["ap50"][0])
        given = average_precision(scores, hits, objects)
        hint = (
            f"Of {count} boxes it should be {expected:.2f} %, yours is {given:.2f}; 101 recalls, in percent."
        )
        yield math.isclose(given, expected, abs_tol=0.02), hint


def exercise_09_3(match: Callable[[Tensor], list[int]]) -> Demands:
    """Check an assignment of least total cost against scipy's."""
    from scipy.optimize import linear_sum_assignment

    stream = torch.Generator().manual_seed(93)
    for queries, objects in ((4, 2), (5, 3), (6, 1)):
        cost = torch.randn(queries, objects, generator=stream, dtype=torch.float64)
        rows, columns = linear_sum_assignment(cost.numpy())
        best = float(cost[rows, columns].sum())
        found = match(cost)
        whole = len(found) == objects and len(set(found)) == objects
        yield whole, "Each object takes a query of its own; return its query for each object."
        total = float(cost[torch.tensor(found), torch.arange(objects)].sum())
        hint = f"Your pairs cost {total:.3f}; there are some that cost {best:.3f}."
        yield math.isclose(total, best, abs_tol=1e-9), hint


def exercise_09_4(logit_at: Callable[[float], float]) -> Demands:
    """Check the logit at which the focal loss reaches a bound."""
    for bound in (0.1, 2.0, 9.0):
        z = torch.tensor(logit_at(bound), dtype=torch.float64)
        reached = float((1 - z.sigmoid()) ** 2 * -F.logsigmoid(z))
        hint = f"At your logit {float(z):.4f} the loss is {reached:.4f}, not {bound}."
        yield math.isclose(reached, bound, rel_tol=1e-4), hint


# --- notebook 10, baselines -----------------------------------------------------------------------


def exercise_10_1(relabel: Callable[[Tensor, list[int], torch.Generator], Tensor]) -> Demands:
    """Check new labels for forgotten images: retained ones, all of them in time, others at each call."""
    stream = torch.Generator().manual_seed(101)
    labels, retained = torch.tensor([3, 7] * 100), [0, 2, 5, 8]
    kept = labels.clone()
    first, second = (relabel(labels, retained, stream) for _ in range(2))
    yield first.shape == labels.shape, f"200 labels went in and {tuple(first.shape)} came out."
    strange = set(first.tolist()) - set(retained)
    yield not strange, f"{sorted(strange)} is not retained."
    yield set(first.tolist()) == set(retained), "Some retained class is never drawn in 200."
    yield torch.equal(labels, kept), "The labels that came in were changed; the loop needs them."
    yield not torch.equal(first, second), "The second call drew the very same labels."


def exercise_10_2(fisher: Callable[[Tensor, Tensor], Tensor]) -> Demands:
    """Check the diagonal Fisher information of z = W x, against its sum over all labels."""
    stream = torch.Generator().manual_seed(102)
    weight = torch.randn(4, 3, generator=stream, dtype=torch.float64, requires_grad=True)
    images = torch.randn(6, 3, generator=stream, dtype=torch.float64)
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for x in images:
        log_p = (weight @ x).log_softmax(dim=0)
        for c in range(4):
            (slope,) = torch.autograd.grad(log_p[c], weight, retain_graph=True)
            expected += log_p[c].detach().exp() * slope.square() / len(images)
    found = fisher(weight.detach(), images)
    hint = "Square before you average over labels and images; the label comes from the model, not the data."
    yield close(found, expected, hint)


def exercise_10_3(distance: Callable[[Tensor, Tensor], Tensor]) -> Demands:
    """Check the distance of two functions, by its value and where they agree."""
    stream = torch.Generator().manual_seed(103)
    teacher, student = torch.randn(2, 5, 8, generator=stream, dtype=torch.float64)
    expected = (sum(float((s - t) @ (s - t)) for s, t in zip(student, teacher, strict=True)) / 5) ** 0.5
    found = float(distance(teacher, student))
    hint = f"It is {found:.4f}; where do the mean and the root go?"
    yield math.isclose(found, expected, rel_tol=1e-6), hint
    same = teacher.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(distance(teacher, same), same)
    hint = "Where student and teacher agree the slope is not a number: the root of a sum has none at 0."
    yield bool(slope.isfinite().all()), hint


def exercise_10_4(probe: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Demands:
    """Check a nearest-mean probe, on embeddings whose lengths say nothing."""
    stream = torch.Generator().manual_seed(104)
    centres = F.normalize(torch.randn(5, 16, generator=stream), dim=1)
    labels = torch.arange(5).repeat(20)
    seen, new = (centres[labels] + 0.12 * torch.randn(100, 16, generator=stream) for _ in range(2))
    seen, new = (v * (0.2 + 5 * torch.rand(100, 1, generator=stream)) for v in (seen, new))
    names = torch.tensor([4, 11, 23, 42, 57])  # classes as they are numbered in the model
    found = probe(seen, names[labels], new)
    yield found.shape == (100,), f"100 labels are expected, not {tuple(found.shape)}."
    yield set(found.tolist()) <= set(names.tolist()), "It names classes that no image was given of."
    right = 100 * float((found == names[labels]).float().mean())
    hint = f"{right:.0f} % are right; 99 % can be. Does the length of an embedding count with you?"
    yield right >= 98, hint


# --- notebook 11, ablations -----------------------------------------------------------------------


def exercise_11_1(trained: Callable[[int, int, int, int], int]) -> Demands:
    """Check the number of weights in the adapters of all FFNs, against models that have them."""
    for depth, dim, mlp, rank in ((2, 16, 48, 3), (3, 32, 64, 8)):
        model = face_transformer(
            FaceConfig(classes=4, image_size=16, patch=8, dim=dim, depth=depth, heads=2, mlp=mlp)
        )
        lora.inject(model)
        lora.attach(model, "task1", rank)
        there = sum(group.size for group in lora.groups(model, "task1"))
        given = trained(depth, dim, mlp, rank)
        hint = f"{depth} blocks, {dim} wide, MLP {mlp}, rank {rank}: there are {there}, and yours is {given}."
        yield given == there, hint


def exercise_11_2(epochs: Callable[[int, int, int], int]) -> Demands:
    """Check the smallest number of passes with at least so many updates, against the loop's own order."""
    for updates, images, batch in ((100, 1200, 48), (100, 250, 48), (7, 30, 48), (50, 96, 48), (51, 96, 48)):
        task = Task("t", 0, (0,), (), (1,), (), tuple(range(images)), (0,))
        training = Training(batch_retain=batch)
        steps = EpochOrder(task, training, Streams(0), torch.device("cpu")).steps
        given = epochs(updates, images, batch)
        hint = (
            f"{images} images in batches of {batch} make {steps} steps a pass; {updates} updates are wanted."
        )
        yield (given - 1) * steps < updates <= given * steps, hint


def exercise_11_3(ratios: Callable[[Mapping[str, tuple[Tensor, Tensor]]], tuple[float, ...]]) -> Demands:
    """Check zero-group ratios by block, by module and by matrix, of the same adapters."""
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    given = {
        "blocks.0.mlp.fc1": (zero, zero),
        "blocks.0.mlp.fc2": (zero, zero),
        "blocks.1.mlp.fc1": (zero, zero),
        "blocks.1.mlp.fc2": (one, zero),
    }
    found = ratios(given)
    yield len(found) == 3, "Three ratios are expected: by block, by module, by matrix."
    for name, value, expected in zip(("block", "module", "matrix"), found, (0.5, 0.75, 0.875), strict=True):
        hint = f"By {name} it is {value}; a group is at zero if every matrix in it is."
        yield math.isclose(value, expected), hint


def exercise_11_4(inflation: Callable[[int, float], float]) -> Demands:
    """Check how much the best of several equally good settings looks better than it is."""
    yield abs(inflation(1, 2.0)) < 0.05, "Of one setting nothing is chosen, so nothing is gained."
    for settings, sd, expected in ((2, 1.0, 1 / math.pi**0.5), (3, 2.0, 3 / math.pi**0.5)):
        value = inflation(settings, sd)
        hint = f"For {settings} settings with a deviation of {sd} it is {value:.3f}: the mean of the largest?"
        yield math.isclose(value, expected, rel_tol=0.03), hint
    yield inflation(20, 1.0) > inflation(5, 1.0) > 1, "More settings, more to choose from."
