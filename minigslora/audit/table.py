"""The table of audits: each is registered here, once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
)
from minigslora.audit.subject import Beside, Found, Subject
from minigslora.audit.verdict import Side

Need = Literal["original", "oracles", "strangers"]


@dataclass(frozen=True)
class Audit:
    """What an audit is, in the words of its row.

    Attributes:
        name: what it is called.
        attacker: who attacks, and what they hold.
        measures: what is measured.
        unproven: what a pass does not prove.
        measure: does it.
        judged: the figures that make its verdict, at most two so that chance alone seldom flags an oracle,
            and on which side of the oracles a model lies that remembers.
        shown: further figures it gives, where they can be had.
        control: which model must be found to remember, or nothing can be told: the original, or the
            original with its forgotten rows erased, where the rows alone would give the original away.
        needs: what it cannot do without, any one of it.
        over: what its curves run over.
        kinds: the kinds of problem that it is defined for.
        unseen: whether it can be asked of classes that no model saw, too (:mod:`minigslora.audit.unseen`).
    """

    name: str
    attacker: str
    measures: str
    unproven: str
    measure: Callable[[Subject, Beside], Found]
    judged: dict[str, Side]
    shown: tuple[str, ...] = ()
    control: Literal["original", "head-only"] = "original"
    needs: tuple[Need, ...] = ()
    over: str = ""
    kinds: tuple[str, ...] = ("classification",)
    unseen: bool = False


TABLE = (
    Audit(
        "everyday",
        "Nobody: what a user of the model sees.",
        "accuracies, how near they are to the oracles' (ToW), and the answer that most forgotten images get",
        "An accuracy of zero says what the model answers, not what it knows.",
        everyday.measure,
        {"Acc_f": "high"},
        ("Acc_r", "Acc_r with margin", "sink of the forgotten", "ToW"),
    ),
    Audit(
        "probe",
        "Has the file and a few labelled images of every class.",
        "a new classifier on the frozen features, over all classes: accuracy on the forgotten",
        "Features that a probe cannot read may hold the class for a deeper attack, or after training.",
        probe.measure,
        {"4 images a class, forgotten": "high", "all images, forgotten": "high"},
        (
            "1 image a class, forgotten",
            "all images, MLP, forgotten",
            "1 image a class, among them",
            "4 images a class, among them",
            "all images, among them",
            "1 image a class, retained",
            "4 images a class, retained",
            "all images, retained",
            "all images, MLP, retained",
        ),
        control="head-only",
        over="block",
        kinds=("classification", "detection"),
        unseen=True,
    ),
    Audit(
        "prototype",
        "Has the file and a few images of the forgotten classes; trains nothing.",
        "Acc_f once each forgotten row is moved half way to its class's mean feature",
        "The retained are measured as well; a cleverer row than a mean may do more.",
        prototype.measure,
        {"Acc_f, 5 images": "high"},
        (
            *(f"Acc_f, {k}" for k in ("1 image", "2 images", "10 images")),
            *(f"Acc_r, {k}" for k in ("1 image", "2 images", "5 images", "10 images")),
            "Acc_f, as in the file",
            *(f"AP50_{k}, {when}" for k in "fr" for when in ("as in the file", "5 images")),
        ),
        control="head-only",
        over="images of a class",
        kinds=("classification", "detection"),
        unseen=True,
    ),
    Audit(
        "relearning",
        "Has the file and four images of each forgotten class, and trains all of it.",
        "Acc_f over the steps of training, as mean height of the curve, from two starts",
        "It is one recipe of training; another may be faster for the edited model than for oracles.",
        relearning.measure,
        {f"area, rows {start}": "high" for start in relearning.STARTS},
        tuple(f"AIN, rows {start}" for start in relearning.STARTS),
        control="head-only",
        over="step",
    ),
    Audit(
        "enrolment",
        "Has the file and uses its embedding, as face recognition does.",
        "verification and identification of the forgotten, the classifier playing no part",
        "Another way of comparing embeddings than their cosine may find more.",
        enrolment.measure,
        {"TAR at FAR 1 %, forgotten": "high", "rank-1, forgotten": "high"},
        (
            "TAR at FAR 0.1 %, forgotten",
            "TAR at FAR 1 %, retained",
            "TAR at FAR 0.1 %, retained",
            "rank-1, retained",
        ),
        control="head-only",
        unseen=True,
    ),
    Audit(
        "template",
        "Has the file only.",
        "whether the forgotten rows of the classifier find their class's images",
        "It says nothing of the features, only of what stayed in the rows.",
        template.measure,
        {"AUC, own features": "high", "AUC, the original's features": "high"},
        ("nearest row, own features", "nearest row, the original's features"),
    ),
    Audit(
        "strangers",
        "Sees outputs only.",
        "whether forgotten classes' images are told from those of people whom no model ever saw",
        "It holds for these strangers and these scores.",
        strangers.measure,
        {"AUC, confidence": "either", "AUC, sorted logits": "high"},
        ("AUC, entropy",),
        needs=("strangers",),
    ),
    Audit(
        "membership",
        "Sees outputs, and has models that never saw the images.",
        "whether the forgotten classes' training images are told from their test images",
        "It asks about these images, not about the class; a model may forget the one and know the other.",
        membership.measure,
        {"loss AUC": "either", "RMIA AUC": "high"},
        ("RMIA, TPR at FPR 1 %",),
    ),
    Audit(
        "similarity",
        "Nobody: a comparison of insides.",
        "how alike features (CKA) and margins of the forgotten are to the original's and the oracles'",
        "Features can be alike without memory and differ with it, so it is shown and never judged.",
        similarity.measure,
        {},
        ("margin off the oracles', nats",),
        needs=("original", "oracles"),
        over="block",
    ),
)
AUDITS: dict[str, Audit] = {audit.name: audit for audit in TABLE}
"""All audits by name, in the order of reports."""
