"""Writes annotations.mat and plain.mat with SciPy: what the reader of MATLAB 5 files is compared with.

Needs numpy and scipy. Run it in this folder.
"""

import numpy as np
from scipy.io import savemat

names = ["AM General Hummer SUV 2000", "Ä", "日本 3"]
annotations = np.zeros((1, 4), dtype=[("relative_im_path", "O"), ("bbox_x1", "O"), ("class", "O"), ("test", "O")])
for i in range(4):
    annotations[0, i] = (f"car_ims/{i + 1:06}.jpg", np.uint16(112 * i), np.uint8(i % 3 + 1), np.uint8(i % 2))
variables = {
    "annotations": annotations,
    "class_names": np.array([names], dtype=object),
    "doubles": np.array([[1.5, -2.0, 1e300]]),
    "wide": np.array([[1, 2], [3, 4]], dtype=np.int32),
    "bytes": np.array([[-1, 127]], dtype=np.int8),
    "large": np.array([[2**40]], dtype=np.int64),
    "single": np.array([[0.25]], dtype=np.float32),
    "empty": np.zeros((0, 0)),
    "nothing": "",
    "complex": np.array([[1 + 2j]]),
    "flag": np.array([[True]]),
}
savemat("annotations.mat", variables, do_compression=True)
savemat("plain.mat", variables, do_compression=False)
