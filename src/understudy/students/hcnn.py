"""HCNN: the harmonic CNN (Won et al., 2020); 3,631,551 parameters at 50 classes."""

from collections.abc import Sequence

from torch import Tensor, nn

from understudy.students.base import Layer, Student, StudentSettings
from understudy.students.frontend import HarmonicFrontEnd


class PooledConvolution(Layer):
    """3x3 convolution and max pooling."""

    def __init__(self, n_in: int, n_out: int, pool: tuple[int, int]) -> None:
        super().__init__()
        self.n_out = n_out
        self.conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.bn = nn.BatchNorm2d(n_out)
        self.pool = nn.MaxPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.bn(self.conv(x)))


class PooledResidual(Layer):
    """Two 3x3 convolutions around an unchanged shortcut, then max pooling."""

    def __init__(self, n_out: int, pool: tuple[int, int]) -> None:
        super().__init__()
        self.n_out = n_out
        self.conv_1 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.bn_1 = nn.BatchNorm2d(n_out)
        self.conv_2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(n_out)
        self.pool = nn.MaxPool2d(pool)

    def forward(self, x: Tensor) -> Tensor:
        main = self.bn_2(self.conv_2(self.bn_1(self.conv_1(x)).relu()))
        return self.pool(main + x)


class Hcnn(Student):
    """Seven pooled layers over six harmonic images; steps of 4.608 s (pools 2^5 * 3^2 frames)."""

    name = "hcnn"
    front_end_name = "hstft"
    front_end_class = HarmonicFrontEnd
    input_samples = 80_000
    min_samples = 73_472
    frames_per_step = 288
    first_centre_frames = 144

    def _layers(self, settings: StudentSettings, n_images: int) -> Sequence[Layer]:
        width = settings.width
        return [
            PooledConvolution(n_images, width, (2, 2)),
            *(PooledResidual(width, (2, 2)) for _ in range(3)),
            PooledConvolution(width, 2 * width, (2, 2)),
            *(PooledResidual(2 * width, (2, 3)) for _ in range(2)),
        ]

    @classmethod
    def _n_steps(cls, n_frames: int) -> int:
        return n_frames // cls.frames_per_step
