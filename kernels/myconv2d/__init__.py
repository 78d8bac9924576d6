"""myconv2d: a drop-in for the framework's 2-D convolution, for the small networks that people train and ship.

    >>> layer = myconv2d.MyConv2d(3, 64, kernel_size=3, padding=1)  # in place of torch.nn.Conv2d
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.BatchNorm2d(64), torch.nn.ReLU())
    >>> model = myconv2d.convert(model)  # or every nn.Conv2d of a model at once
    >>> model = myconv2d.fuse(model)  # and with them batch norm, ReLU and pooling
"""

from .backends import use_backend
from .block import Pending
from .conv_block import ConvBlock, conv_concat, explain_block
from .frozen import Frozen, freeze
from .functional import conv2d
from .info import explain, info
from .loss import cross_entropy
from .memory import release_memory
from .modules import MyConv2d, convert
from .recorded import Recorded, recorded
from .sequential import FusedSequential, fuse
from .transposed import MyConvTranspose2d

__all__ = [
    "ConvBlock",
    "Frozen",
    "FusedSequential",
    "MyConv2d",
    "MyConvTranspose2d",
    "Pending",
    "Recorded",
    "conv2d",
    "conv_concat",
    "convert",
    "cross_entropy",
    "explain",
    "explain_block",
    "freeze",
    "fuse",
    "info",
    "recorded",
    "release_memory",
    "use_backend",
]
__version__ = "0.1.0"
