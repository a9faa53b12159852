"""The exercises' self-checks: each says what is right, or what to look at next, and never the answer."""

from minigslora.course.checks.ablations import exercise_11_1, exercise_11_2, exercise_11_3, exercise_11_4
from minigslora.course.checks.baselines import exercise_10_1, exercise_10_2, exercise_10_3, exercise_10_4
from minigslora.course.checks.common import GOOD, NotYet, close, passed, require
from minigslora.course.checks.face_benchmark import exercise_07_1, exercise_07_2, exercise_07_3, exercise_07_4
from minigslora.course.checks.forget_again import exercise_05_1, exercise_05_2, exercise_05_3, exercise_05_4
from minigslora.course.checks.forget_once import exercise_04_1, exercise_04_2, exercise_04_3, exercise_04_4
from minigslora.course.checks.group_sparsity import exercise_03_1, exercise_03_2, exercise_03_3, exercise_03_4
from minigslora.course.checks.image_classification import (
    exercise_08_1,
    exercise_08_2,
    exercise_08_3,
    exercise_08_4,
)
from minigslora.course.checks.lora_injection import exercise_02_1, exercise_02_2, exercise_02_3, exercise_02_4
from minigslora.course.checks.object_detection import (
    exercise_09_1,
    exercise_09_2,
    exercise_09_3,
    exercise_09_4,
)
from minigslora.course.checks.pretrain import exercise_01_1, exercise_01_2, exercise_01_3, exercise_01_4
from minigslora.course.checks.prototypes import exercise_06_1, exercise_06_2, exercise_06_3, exercise_06_4
from minigslora.course.checks.start_here import exercise_00_1, exercise_00_2, exercise_00_3, exercise_00_4

__all__ = [
    "GOOD",
    "NotYet",
    "close",
    "exercise_00_1",
    "exercise_00_2",
    "exercise_00_3",
    "exercise_00_4",
    "exercise_01_1",
    "exercise_01_2",
    "exercise_01_3",
    "exercise_01_4",
    "exercise_02_1",
    "exercise_02_2",
    "exercise_02_3",
    "exercise_02_4",
    "exercise_03_1",
    "exercise_03_2",
    "exercise_03_3",
    "exercise_03_4",
    "exercise_04_1",
    "exercise_04_2",
    "exercise_04_3",
    "exercise_04_4",
    "exercise_05_1",
    "exercise_05_2",
    "exercise_05_3",
    "exercise_05_4",
    "exercise_06_1",
    "exercise_06_2",
    "exercise_06_3",
    "exercise_06_4",
    "exercise_07_1",
    "exercise_07_2",
    "exercise_07_3",
    "exercise_07_4",
    "exercise_08_1",
    "exercise_08_2",
    "exercise_08_3",
    "exercise_08_4",
    "exercise_09_1",
    "exercise_09_2",
    "exercise_09_3",
    "exercise_09_4",
    "exercise_10_1",
    "exercise_10_2",
    "exercise_10_3",
    "exercise_10_4",
    "exercise_11_1",
    "exercise_11_2",
    "exercise_11_3",
    "exercise_11_4",
    "passed",
    "require",
]
