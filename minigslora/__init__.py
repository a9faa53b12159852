"""minigslora: continual forgetting for pre-trained vision models (GS-LoRA and GS-LoRA++)."""

from minigslora.erasure import Erasure, forget
from minigslora.errors import MiniGSLoRAError

__version__ = "0.1.0"

__all__ = ["Erasure", "MiniGSLoRAError", "__version__", "forget"]
