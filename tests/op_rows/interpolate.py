import torch.nn.functional as F
from op_table import Row, Sample, integers, normal

from minires.ops.interpolate import interpolate

X = normal(2, 3, 6, 5)
LAYOUTS = ["channels_last", "transposed", "strided"]
SIZES = [
    {"size": 3},
    {"size": (12, 10)},
    {"size": [7, 4]},
    {"size": (6, 5)},
    {"size": (1, 11)},
    {"size": (13, 1)},
    {"scale_factor": 2},
    {"scale_factor": 0.5},
    {"scale_factor": (1.5, 0.7)},
    {"scale_factor": [1 / 3, 3.3]},
    {"scale_factor": 1.1},  # 6 and 5 pixels again, but sampled at a ratio of 1 / 1.1
    {"scale_factor": 2.1},  # 12 and 10 pixels, sampled at 1 / 2.1
    {"scale_factor": 2.5},
    {"scale_factor": 2.3, "recompute_scale_factor": True},
    {"scale_factor": 2.3, "recompute_scale_factor": False},
]

ROWS = [
    Row(
        "interpolate",
        interpolate,
        F.interpolate,
        [
            *(Sample(X, **size) for size in SIZES),
            *(Sample(X, **size, mode="bilinear") for size in SIZES),
            *(Sample(X, **size, mode="bilinear", align_corners=True) for size in SIZES),
            Sample(X, (4, 9), None, "bilinear", False),
            Sample(normal(2, 1, 1, 1), 3, mode="bilinear", align_corners=True),
            Sample(normal(0, 3, 6, 5), 4),
            Sample(normal(0, 3, 6, 5), 4, mode="bilinear"),
            *(Sample(normal(2, 3, 6, 5, layout=layout), (4, 9)) for layout in LAYOUTS),
            *(Sample(normal(2, 3, 6, 5, layout=layout), (4, 9), mode="bilinear") for layout in LAYOUTS),
            *(Sample(normal(2, 3, 6, 5, layout=layout), scale_factor=2.1) for layout in LAYOUTS),
        ],
        [
            Sample(X),
            Sample(X, 3, 2),
            Sample(X, 3.0),
            Sample(X, (3,)),
            Sample(X, (3, 4, 5)),
            Sample(X, (3.0, 4)),
            Sample(X, 0),
            Sample(X, -1),
            Sample(X, scale_factor=(2,)),
            Sample(X, scale_factor=(2, 2, 2)),
            Sample(X, scale_factor=0.1),
            Sample(X, scale_factor=0),
            Sample(X, scale_factor=-1),
            Sample(X, scale_factor="a"),
            Sample(X, 3, recompute_scale_factor=True),
            Sample(X, 3, align_corners=False),
            Sample(X, 3, align_corners=True),
            Sample(X, 3, mode="linear"),
            Sample(X, 3, mode="billinear"),
            Sample(X, 3, antialias=True),
            Sample(normal(3, 6, 5), 3, mode="bilinear"),
            Sample(normal(6, 5), 3),
            Sample(integers(2, 3, 6, 5), 3),
            Sample(normal(2, 0, 6, 5), 3),
            Sample(normal(2, 3, 0, 5), 3),
        ],
    ),
]
