"""The audits: each formula against sums written out, each attack where the answer is known, every error."""

import dataclasses
import itertools
import math

import pytest
import torch
from tiny import PEOPLE, face_model, faces, timm_vit
from torch import nn

from minigslora.audit import (
    enrolment,
    everyday,
    membership,
    probe,
    prototype,
    relearning,
    similarity,
    strangers,
    template,
    unseen,
)
from minigslora.audit.subject import Beside, Case, Subject, draws, mean
from minigslora.audit.verdict import Band, false_alarms, judge, overall
from minigslora.models.head_slicing import classifier
from minigslora.models.heads import CosFace
from minigslora.problems.classification import Classification
from minigslora.rng import Streams


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def softmax(z):
    top = max(z)
    parts = [math.exp(v - top) for v in z]
    return [p / sum(parts) for p in parts]


def nats(p):
    return -sum(v * math.log(v) for v in p)


def brute_auc(scores, others):
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in scores for b in others)
    return won / (len(scores) * len(others))


# --- verdicts ----------------------------------------------------------------------------------------


def test_the_band_is_the_t_interval_for_one_more_oracle():
    values = [53.4, 50.1, 56.0, 52.2, 54.9]
    m = sum(values) / 5
    s = math.sqrt(sum((v - m) ** 2 for v in values) / 4)
    band = Band.of(values)
    assert band.mean == pytest.approx(m)
    assert band.reach == pytest.approx(2.776445 * s * math.sqrt(1.2), rel=1e-6)  # t of 4 degrees, 97.5 %


@pytest.mark.parametrize(
    ("value", "side", "control", "expected"),
    [
        (60.0, "high", 90.0, "remembers"),
        (51.0, "high", 90.0, "passes"),
        (20.0, "high", 90.0, "passes"),  # beyond, on the safe side
        (20.0, "either", 90.0, "remembers"),
        (20.0, "low", 10.0, "remembers"),
        (60.0, "low", 10.0, "passes"),
        (60.0, "high", 50.5, "cannot tell here"),  # the control is among the oracles
        (60.0, "high", None, "remembers"),
    ],
)
def test_judging_a_figure(value, side, control, expected):
    assert judge(value, [49.0, 50.0, 51.0, 50.0], side, control) == expected


def test_without_oracles_or_with_one_nothing_is_judged():
    assert judge(99.0, [], "high", 99.0) == "no oracle"
    assert judge(99.0, [50.0], "high", 99.0) == "no band"


def test_oracles_that_all_agree_leave_a_point_of_room():
    assert judge(0.8, [0.0] * 5, "high") == "passes"
    assert judge(1.2, [0.0] * 5, "high") == "remembers"


def test_false_alarms_are_counted_with_each_oracle_held_out():
    assert false_alarms([50.0, 50.2, 49.8, 50.1, 70.0], "high") == (1, 5)
    assert false_alarms([50.0, 50.2, 49.8, 50.1, 30.0], "high") == (0, 5)
    assert false_alarms([50.0, 60.0], "high") == (0, 0)  # one oracle beside makes no band


def test_one_figure_that_remembers_decides():
    assert overall(["passes", "remembers", "cannot tell here"]) == "remembers"
    assert overall(["cannot tell here", "passes"]) == "passes"
    assert overall(["cannot tell here", "cannot tell here"]) == "cannot tell here"


# --- the formulas against sums written out -----------------------------------------------------------


def test_cosines_of_pairs_and_acceptance():
    features, labels = normal(12, 5), torch.arange(12) // 4
    same, different = enrolment.pairs(features, labels)
    rows = features.double().tolist()
    both = [(i, j) for i in range(12) for j in range(i + 1, 12)]
    expected = {
        own: [cosine(rows[i], rows[j]) for i, j in both if (labels[i] == labels[j]) == own]
        for own in (True, False)
    }
    torch.testing.assert_close(same.double(), torch.tensor(expected[True]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(different.double(), torch.tensor(expected[False]).double(), atol=1e-6, rtol=0)
    accepted = enrolment.true_acceptance(same, different, 0.25)
    threshold = sorted(different.tolist(), reverse=True)[len(different) // 4]
    assert accepted == pytest.approx(sum(v > threshold for v in same.tolist()) / len(same))
    assert sum(v > threshold for v in different.tolist()) / len(different) <= 0.25


def test_a_rate_finer_than_the_pairs_is_not_measured():
    assert math.isnan(enrolment.true_acceptance(torch.ones(3), torch.zeros(99), 0.01))
    assert enrolment.true_acceptance(torch.ones(3), torch.zeros(100), 0.01) == 1


def test_rank_one_names_the_nearest_image_in_the_gallery():
    gallery, names = normal(4, 6), torch.tensor([5, 7, 8, 9])
    features, labels = normal(10, 6, seed=1), torch.tensor([5, 7, 8, 9, 5, 7, 8, 9, 5, 7])
    hits = [
        names[max(range(4), key=lambda g: cosine(gallery[g].tolist(), x.tolist()))] == y
        for x, y in zip(features, labels, strict=True)
    ]
    assert enrolment.rank_one(gallery, names, features, labels) == pytest.approx(sum(map(float, hits)) / 10)


def test_revived_rows_follow_the_equation():
    rows, features, labels = normal(4, 3), normal(6, 3, seed=1), torch.tensor([2, 2, 2, 0, 0, 0])
    revived = prototype.revived_rows(rows, features, labels)
    for c in (0, 2):
        own = features[labels == c].double().tolist()
        centre = [sum(column) / 3 for column in zip(*own, strict=True)]
        length = math.sqrt(sum(v * v for v in rows[c].tolist()))
        p = [v / math.sqrt(sum(u * u for u in centre)) for v in centre]
        w = [v / length for v in rows[c].tolist()]
        half = [0.5 * a + 0.5 * b for a, b in zip(p, w, strict=True)]
        scale = length / math.sqrt(sum(v * v for v in half))
        torch.testing.assert_close(revived[c].tolist(), [v * scale for v in half], rtol=1e-5, atol=1e-6)
    assert torch.equal(revived[[1, 3]], rows[[1, 3]])


def test_a_row_of_zeros_is_revived_at_the_others_length():
    rows = torch.diag(torch.tensor([2.0, 4.0, 0.0]))
    revived = prototype.revived_rows(rows, torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([2]))
    torch.testing.assert_close(revived[2], torch.tensor([0.0, 0.0, 3.0]))


def test_a_revived_class_of_a_linear_head_can_win_again():
    head = nn.Linear(3, 3)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, 3.0, -1e6]))
    revived = prototype.revived(head, torch.eye(3)[2:], torch.tensor([2]), [0, 1])
    assert revived.bias.tolist() == [1.0, 3.0, 2.0]
    assert head.bias[2] == -1e6


def test_relearning_areas_steps_and_ain():
    curve = [0.0, 20.0, 50.0, 60.0]
    assert relearning.area(curve) == pytest.approx((10 + 35 + 55) / 3)
    assert relearning.steps_to(curve, 40.0, 10) == pytest.approx(10 + 10 * 20 / 30)
    assert relearning.steps_to(curve, 0.0, 10) == 0
    assert relearning.steps_to(curve, 61.0, 10) == math.inf
    slow = [0.0, 10.0, 20.0, 40.0]
    assert relearning.anamnesis_index(curve, slow, 80.0, 10) == pytest.approx((10 + 20 / 3) / 30)
    assert relearning.anamnesis_index(slow, curve, 90.0, 10) == math.inf
    assert math.isnan(relearning.anamnesis_index(slow, slow, 200.0, 10))


def test_a_template_is_found_by_its_nearest_images_and_by_auc():
    rows, features, labels = normal(3, 4), normal(9, 4, seed=1), torch.tensor([0, 1, 2] * 3)
    table = [[cosine(x.tolist(), r.tolist()) for r in rows] for x in features]
    right = sum(
        max(range(3), key=row.__getitem__) == y for row, y in zip(table, labels.tolist(), strict=True)
    )
    assert template.nearest_row(rows, features, labels) == pytest.approx(right / 9)
    aucs = [
        brute_auc(
            [table[i][k] for i in range(9) if labels[i] == k],
            [table[i][k] for i in range(9) if labels[i] != k],
        )
        for k in range(3)
    ]
    assert template.template_auc(rows, features, labels) == pytest.approx(sum(aucs) / 3)


def test_confidence_entropy_and_auc():
    logits = normal(5, 4)
    for i, row in enumerate(logits.double().tolist()):
        p = softmax(row)
        assert float(strangers.confidence(logits)[i]) == pytest.approx(max(p), abs=1e-6)
        assert float(strangers.entropy(logits)[i]) == pytest.approx(nats(p), abs=1e-6)
    scores, others = torch.tensor([0.1, 0.5, 0.5, 0.9]), torch.tensor([0.5, 0.2, 0.0])
    assert strangers.auc(scores, others) == pytest.approx(brute_auc(scores.tolist(), others.tolist()))


def test_the_loss_auc_ranks_by_the_loss_of_the_true_class():
    inside, outside = normal(6, 3), normal(5, 3, seed=1)
    truth = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([2, 1, 0, 2, 1])
    losses = [
        [-math.log(softmax(z)[y]) for z, y in zip(logits.double().tolist(), labels.tolist(), strict=True)]
        for logits, labels in ((inside, truth[0]), (outside, truth[1]))
    ]
    expected = brute_auc([-v for v in losses[0]], [-v for v in losses[1]])
    assert membership.loss_auc(inside, truth[0], outside, truth[1]) == pytest.approx(expected)


def test_rmia_is_written_out():
    p, references = torch.rand(4).double(), torch.rand(3, 4).double()
    ratios = membership.relative_likelihood(p, references, a=0.4)
    for i in range(4):
        out = sum(references[:, i].tolist()) / 3
        assert float(ratios[i]) == pytest.approx(float(p[i]) / (0.5 * (1.4 * out + 0.6)))
    population = torch.tensor([0.2, 0.5, float(ratios[1]), 3.0]).double()
    expected = [sum(float(r) / z >= 1 for z in population.tolist()) / 4 for r in ratios]
    assert membership.rmia(ratios, population).tolist() == pytest.approx(expected)


def test_tpr_at_a_fpr():
    others = torch.arange(100.0)
    assert membership.found_at(torch.tensor([98.5, 99.5, 97.0, 200.0]), others, 0.01) == 0.75
    assert membership.found_at(others, others, 0.1) == pytest.approx(0.1)


def test_cka_is_one_for_a_turn_and_is_written_out():
    x = normal(20, 4).double()
    turned = x @ torch.linalg.qr(normal(4, 4, seed=1).double()).Q * 3 + 5
    assert similarity.linear_cka(x, turned) == pytest.approx(1)
    y = normal(20, 3, seed=2).double()
    a, b = (v - v.mean(dim=0) for v in (x, y))

    def square(u, v):
        entries = itertools.product(range(u.shape[1]), range(v.shape[1]))
        return sum(sum(u[n, i] * v[n, j] for n in range(20)) ** 2 for i, j in entries)

    expected = square(b, a) / math.sqrt(square(a, a) * square(b, b))
    assert similarity.linear_cka(x, y) == pytest.approx(float(expected))


def test_margins_and_klom():
    logits, labels = normal(3, 4), torch.tensor([1, 0, 3])
    for i, z in enumerate(logits.double().tolist()):
        rest = math.log(sum(math.exp(v) for c, v in enumerate(z) if c != labels[i]))
        margin = float(similarity.margins(logits, labels)[i])
        assert margin == pytest.approx(z[int(labels[i])] - rest, abs=1e-5)
    edited, oracles = normal(3, 2).double(), normal(4, 2, seed=1).double() * 2
    for i, value in enumerate(similarity.klom(edited, oracles).tolist()):
        m, m_o = float(edited[:, i].mean()), float(oracles[:, i].mean())
        v = sum((float(x) - m) ** 2 for x in edited[:, i]) / 2
        v_o = sum((float(x) - m_o) ** 2 for x in oracles[:, i]) / 3
        assert value == pytest.approx(0.5 * math.log(v_o / v) + (v + (m - m_o) ** 2) / (2 * v_o) - 0.5)


def test_tug_of_war_and_the_sink():
    ours = {"forget": 10.0, "retain": 80.0, "test": 70.0}
    oracle = {"forget": 0.0, "retain": 90.0, "test": 75.0}
    assert everyday.tug_of_war(ours, oracle) == pytest.approx(0.9 * 0.9 * 0.95)
    assert everyday.tug_of_war(oracle, oracle) == 1
    logits = torch.eye(4)[torch.tensor([0, 1, 1, 1, 3])]
    assert everyday.sink(logits) == pytest.approx(0.6)


# --- attacks whose answer is known -------------------------------------------------------------------

LABELS = torch.arange(5).repeat_interleave(12)


def test_features_that_hold_nothing_are_probed_at_chance_and_those_that_hold_everything_at_100():
    nothing = normal(60, 8), normal(600, 8, seed=1)
    truth = torch.arange(5).repeat_interleave(120)
    centres = normal(5, 8, seed=2) * 10
    everything = centres[LABELS] + nothing[0] * 0.1, centres[truth] + nothing[1] * 0.1
    for way in (probe.linear_probe, lambda *given: probe.mlp_probe(*given, Streams(0))):
        assert 10 < probe.percent(way(nothing[0], LABELS, nothing[1]), truth, truth >= 0) < 30
        assert probe.percent(way(everything[0], LABELS, everything[1]), truth, truth >= 0) == 100


def test_a_probe_gives_the_classes_own_numbers_whatever_the_features_scale():
    centres, labels = normal(3, 8) * 10, torch.tensor([4, 9, 30]).repeat_interleave(6)
    seen = centres.repeat_interleave(6, dim=0)
    for scale in (1e-3, 1.0, 1e3):
        assert torch.equal(probe.linear_probe(seen * scale, labels, seen * scale), labels)
        assert torch.equal(probe.mlp_probe(seen * scale, labels, seen * scale, Streams(0)), labels)


def test_a_row_that_is_the_template_leaks_and_rows_of_zeros_or_noise_do_not():
    centres = normal(5, 16) * 10
    features = centres[LABELS] + normal(60, 16, seed=1)
    assert template.nearest_row(centres, features, LABELS) == 1
    assert template.template_auc(centres, features, LABELS) == 1
    assert template.template_auc(torch.zeros(5, 16), features, LABELS) == 0.5
    noise = normal(100, 5, 16, seed=2)
    assert abs(mean(template.template_auc(rows, features, LABELS) for rows in noise) - 0.5) < 0.05


def test_outputs_that_differ_are_told_apart_and_equal_ones_are_not():
    sure, unsure = 8 * normal(60, 6), 0.1 * normal(60, 6, seed=1)
    assert strangers.classifier_auc(sure, unsure, 0) > 0.95
    assert abs(strangers.classifier_auc(normal(200, 6), normal(200, 6, seed=1), 0) - 0.5) < 0.1


def test_memorised_images_are_found_and_others_are_not():
    labels = torch.zeros(200, dtype=torch.long)
    images = normal(200, 4), normal(200, 4, seed=1)
    assert abs(membership.loss_auc(images[0], labels, images[1], labels) - 0.5) < 0.1
    memorised = images[0] + 9 * torch.eye(4)[labels]
    assert membership.loss_auc(memorised, labels, images[1], labels) > 0.95


# --- what is read of a model -------------------------------------------------------------------------

GONE = (1, 4)
QUICK = relearning.Attack(shots=2, steps=4, every=2, batch=4)


def case(**changes):
    return Case(**{"data": faces(), "gone": GONE, "relearning": QUICK, "images": 6, **changes})


def subject(model=None, **changes):
    asked = case(**changes)
    problem = Classification(model or face_model(), asked.data, device="cpu", precision="fp32")
    return Subject("edited", problem, asked)


def test_draws_are_of_each_class_without_repeats_and_the_same_again():
    first, second = (draws(LABELS, 4, Streams(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    for rows in first:
        assert LABELS[rows].bincount().tolist() == [4] * 5
        assert len(rows.unique()) == 20
    (everything,) = draws(LABELS, 0, Streams(3), tries=1)
    assert len(everything) == len(LABELS)
    assert len(draws(LABELS, 99, Streams(3))[0]) == len(LABELS)  # at most


def test_a_subject_reads_what_the_model_says():
    it = subject()
    problem = it.problem
    with torch.no_grad():
        outputs = problem.outputs(problem.normalise(problem.data.test.images), it.model)
    torch.testing.assert_close(it.test.features, outputs.embedding)
    torch.testing.assert_close(it.test.logits, outputs.logits)
    assert len(it.train.labels) == 6 * PEOPLE
    assert it.accuracy(it.model, range(PEOPLE)) == pytest.approx(problem.accuracy("test"))
    assert it.test_gone.tolist() == [int(c) in GONE for c in problem.data.test.labels]


@pytest.mark.parametrize("model", [face_model(), timm_vit()])
def test_the_last_blocks_class_token_is_what_the_norm_reads(model):
    it = subject(model)
    last = list(it.test.tokens)[-1]
    assert list(it.test.tokens) == [f"blocks.{i}" for i in range(len(it.model.blocks))]
    torch.testing.assert_close(it.model.fc_norm(it.model.norm(it.test.tokens[last])), it.test.features)


def test_hooks_leave_the_model():
    it = subject(face_model())
    assert it.test.tokens
    assert not any(module._forward_hooks for module in it.model.modules())


def test_the_attackers_pools_are_the_images_at_hand():
    it = subject()
    labels = it.problem.data.train.labels
    rows = it.pool(GONE, 2, Streams(0))
    assert sorted(labels[rows].tolist()) == [1, 1, 4, 4]
    assert set(rows.tolist()) <= set(it.case.at_hand.tolist())
    assert set(labels[it.pool(it.case.kept, 0, Streams(0))].tolist()) == set(range(PEOPLE)) - set(GONE)


@pytest.mark.parametrize("model", [face_model(), timm_vit()])
def test_rows_drawn_anew_have_the_kept_ones_length_and_leave_the_model_alone(model):
    before = classifier(model).weight.clone()
    head = classifier(relearning.started(model, GONE, "drawn anew", Streams(0)))
    kept = [c for c in range(PEOPLE) if c not in GONE]
    assert torch.equal(classifier(model).weight, before)
    assert torch.equal(head.weight[kept], before[kept])
    usual = before[kept].norm(dim=1).mean()
    torch.testing.assert_close(head.weight[list(GONE)].norm(dim=1), usual.expand(2))
    same = classifier(relearning.started(model, GONE, "as in the file", Streams(0)))
    assert torch.equal(same.weight, before)
    if not isinstance(head, CosFace):
        torch.testing.assert_close(same.bias[list(GONE)], same.bias[kept].mean().expand(2))


def test_relearning_is_the_same_again_and_leaves_the_model_alone():
    it, other = subject(), subject()
    before = {k: v.clone() for k, v in it.model.state_dict().items()}
    curve = it.curve("drawn anew")
    assert len(curve) == 1 + QUICK.steps // QUICK.every
    assert curve == other.curve("drawn anew")
    assert all(torch.equal(v, before[k]) for k, v in it.model.state_dict().items())


def test_relearning_teaches():
    hard = dataclasses.replace(QUICK, shots=6, steps=60, every=60, batch=12, lr=2e-3)
    it = subject(relearning=hard)
    assert it.curve("as in the file")[-1] > it.curve("as in the file")[0]


@pytest.mark.parametrize("attack", [probe, prototype, relearning, enrolment, template, membership, everyday])
def test_every_attack_runs_beside_an_original_and_oracles(attack):
    it = subject()
    others = [dataclasses.replace(subject(face_model(seed)), case=it.case) for seed in (1, 2)]
    found = attack.measure(it, Beside(tuple(others), it))
    assert found.figures
    assert all(isinstance(v, float) for v in found.figures.values())


def test_similarity_to_itself_is_one_in_every_block():
    it = subject()
    found = similarity.measure(it, Beside((subject(face_model()),), it))
    assert found.curves["CKA to the original"] == pytest.approx([1.0] * 3)
    assert found.figures["margin off the oracles', nats"] == 0


def test_strangers_take_the_forgotten_ones_numbers_with_rows_of_zeros():
    labels = torch.arange(4).repeat_interleave(torch.tensor([12, 3, 11, 10]))  # the second has too few
    it = subject(strangers=faces().train.images[: len(labels)], stranger_labels=labels)
    assert unseen.why_not(it.case) == ""
    never = unseen.Unseen("never seen", it.problem, it.case, twin=it)
    for split, mine, rest in (("train", range(6), range(15, 20)), ("test", range(6, 12), range(20, 26))):
        read, before = getattr(never, split), getattr(it, split)
        stays = ~torch.isin(before.labels, torch.tensor(GONE))
        count = int(stays.sum())
        assert torch.equal(read.features[:count], before.features[stays])
        assert torch.equal(read.features[count:], it.strangers.features[[*mine, *rest]])
        assert read.labels[count:].tolist() == [GONE[0]] * len(mine) + [GONE[1]] * len(rest)
        assert torch.equal(read.logits, never.head(read.features))
    assert not never.head.weight[list(GONE)].any()
    assert it.head.weight[list(GONE)].any()
    assert never.test_gone.sum() == 12
    for attack in (probe, prototype, enrolment):
        assert attack.measure(never, Beside()).figures.keys() == attack.measure(it, Beside()).figures.keys()


def test_why_no_stranger_takes_the_place_of_the_forgotten():
    assert "no strangers" in unseen.why_not(case())
    images = faces().train.images[:19]
    assert "do not say which class" in unseen.why_not(case(strangers=images))
    labels = (torch.arange(19) >= 10).long()
    few = unseen.why_not(case(strangers=images, stranger_labels=labels))
    assert few == "1 classes of strangers have 10 images or more, fewer than the 2 that are forgotten"


def test_strangers_are_read_from_their_images():
    it = subject(strangers=faces().train.images[:20])
    found = strangers.measure(it, Beside())
    assert it.strangers.labels.unique().tolist() == [-1]
    assert 0 <= found.figures["AUC, confidence"] <= 100
    assert "AUC, sorted logits" not in found.figures  # eight images are too few for five folds of ten
