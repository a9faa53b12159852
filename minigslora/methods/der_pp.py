"""DER++: DER with cross-entropy on a second draw of retained images.

    L = CE_f(relabelled) + λ · mean ‖z_teacher − z‖² + λ' · CE_r'

Source: arXiv 2004.07211, equation 6. The released recipe's other differences are DER's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minigslora.config import NonNegative
from minigslora.methods.base import Terms
from minigslora.methods.der import DER, DERConfig
from minigslora.problems.base import Batch, Problem, Role
from minigslora.tasks import Progress


@dataclass(frozen=True)
class DERPlusPlusConfig(DERConfig):
    """Settings of DER++.

    Attributes:
        replay: λ'.
    """

    replay: NonNegative = 1.0


class DERPlusPlus(DER):
    """Dark experience replay with labels (arXiv 2004.07211)."""

    name: ClassVar[str] = "der++"
    published: ClassVar[str] = "DER++"
    Config: ClassVar[type[Any]] = DERPlusPlusConfig
    config: DERPlusPlusConfig

    @classmethod
    def released(cls, single: bool, batch: int) -> Mapping[str, Any]:
        """Return the released code's configuration."""
        return {**super().released(single, batch), "match": 0.05 if single else 0.005, "replay": 0.005}

    def wants(self, progress: Progress) -> tuple[Role, ...]:
        """Ask for two draws of retained images."""
        return ("retain", "forget", "retain2")

    def terms(self, problem: Problem, outputs: Any, batch: Batch) -> Terms:
        """Add cross-entropy on the second draw."""
        replay = self.cross_entropy(problem, outputs, batch, "retain2")
        return {**super().terms(problem, outputs, batch), "replay": replay}

    def weights(self) -> dict[str, float]:
        """Add the second draw's weight."""
        return {**super().weights(), "replay": self.config.replay}
