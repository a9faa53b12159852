"""Bad Teacher: its loss against sums written out, and its incompetent teacher."""

from dataclasses import replace

import pytest
import tiny
import torch
from test_baselines import (
    CLOSE,
    STREAMS,
    TASK,
    F,
    InFloat64,
    R,
    kl,
    make_plan,
    original,
    said,
    serve,
    spread,
    started,
    stepped,
)

from minigslora import methods
from minigslora.errors import ConfigError
from minigslora.rng import Streams
from minigslora.sequence import forget_sequence


@pytest.mark.parametrize(("relative", "temperature"), [(False, 1.0), (False, 3.0), (True, 0.4)])
def test_the_loss_is_its_equation(data, relative, temperature):
    problem = InFloat64()
    method = started(problem, "bad-teacher", relative=relative, temperature=temperature)
    (logits, _), (teacher, _) = said(problem), said(problem, original())
    random, _ = said(problem, method.incompetent)
    unit = temperature * (spread(problem) if relative else 1.0)
    expected = {
        "keep": kl(teacher[R], logits[R], unit).mean(),
        "forget": kl(random[F], logits[F], unit).mean(),
    }
    expected["loss"] = expected["keep"] + expected["forget"]
    assert stepped(problem, method) == pytest.approx(expected, **CLOSE)


def test_the_incompetent_teacher_is_drawn_anew_for_each_request_and_is_not_trained():
    problem = tiny.problem()
    method = methods.create("bad-teacher")
    drawn = []
    for task in (TASK, replace(TASK, name="task2", index=1)):
        trained = method.begin(problem, task, Streams(0, task.name))[0]["params"]
        weights = list(method.incompetent.parameters())
        assert not {id(p) for p in weights} & {id(p) for p in trained}
        assert not any(p.requires_grad for p in weights)
        assert not method.incompetent.training
        drawn.append(method.incompetent.state_dict())
    plain = problem.model.state_dict()
    for key in ("head.weight", "blocks.0.mlp.fc1.weight", "cls_token"):
        assert not torch.equal(drawn[0][key], plain[key])
        assert not torch.equal(drawn[0][key], drawn[1][key])
    method.begin(problem, TASK, STREAMS)
    assert all(torch.equal(v, drawn[0][k]) for k, v in method.incompetent.state_dict().items())


def test_a_run_that_was_stopped_draws_the_same_one_again(tmp_path):
    _, whole, _ = serve("bad-teacher", out=tmp_path)
    for suffix in ("json", "safetensors"):
        (tmp_path / f"task2.{suffix}").unlink()
    _, taken_up, _ = serve("bad-teacher", out=tmp_path)
    again = taken_up.incompetent.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in whole.incompetent.state_dict().items())
    assert set(taken_up.networks) == {"teacher"}, "what is drawn again need not be kept"


def test_it_is_refused_where_images_have_no_single_label():
    with pytest.raises(
        ConfigError, match="bad-teacher is not defined for detection, only for classification"
    ):
        forget_sequence(tiny.detection(), methods.create("bad-teacher"), make_plan(), 0)
