"""Make tests/checkpoints/quantisers: one small codebook in each layout that quantisers read.

`python -m scripts.make_quantisers`. Twenty centroids of 32 numbers as .npy, .safetensors and in joblib files of today;
Spirit LM's linear quantiser with 20 units and a blank, random. `--old-joblib FOLDER` also makes the file of an old
joblib and an old scikit-learn, whose arrays lie unaligned: `pip install --no-deps --target FOLDER joblib==1.1.1` first.
"""

import argparse
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.canonical import rng_for

FOLDER = Path(__file__).parent.parent / "tests" / "checkpoints" / "quantisers"
CLUSTERS, WIDTH = 20, 32
OLD = """
import sys, types
sys.path.insert(0, sys.argv[1])
import joblib, numpy
model = type("MiniBatchKMeans", (), {"__module__": "sklearn.cluster.k_means_"})()
for name in ("sklearn", "sklearn.cluster", "sklearn.cluster.k_means_"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["sklearn.cluster.k_means_"].MiniBatchKMeans = type(model)
centroids = numpy.load(sys.argv[2]).astype("f8")
model.__dict__.update(
    n_clusters=len(centroids), init="k-means++", tol=0.0, n_iter_=7, inertia_=numpy.float64(3.5),
    random_state_=numpy.random.RandomState(1), counts_=numpy.arange(len(centroids), dtype="i4"),
    cluster_centers_=centroids, labels_=None, _sklearn_version="0.20.3",
)
joblib.dump(model, sys.argv[3], protocol=2)
"""


def fitted() -> "npt.NDArray[np.float32]":
    """Return rows that k-means is fitted to."""
    rng = rng_for(0, "quantisers")
    centres = 2 * rng.normal(size=(CLUSTERS, WIDTH))
    return (centres[rng.integers(CLUSTERS, size=600)] + rng.normal(size=(600, WIDTH))).astype(np.float32)


def write_kmeans(folder: Path) -> None:
    """Write kmeans.npy, kmeans.safetensors and kmeans.bin, all of one model."""
    import joblib
    from safetensors.numpy import save_file
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        model = MiniBatchKMeans(CLUSTERS, n_init=1, random_state=0, compute_labels=False).fit(fitted())
    np.save(folder / "kmeans.npy", model.cluster_centers_)
    save_file({"cluster_centers_": model.cluster_centers_}, folder / "kmeans.safetensors")
    joblib.dump(model, folder / "kmeans.bin")


def write_linear(folder: Path) -> None:
    """Write linear.pt, as Spirit LM's release lays it out."""
    import torch

    rng = rng_for(0, "linear")
    sizes = [WIDTH, 28, 24, CLUSTERS + 1]
    weights = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        for kind, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
            values = rng.normal(size=shape) * (1.5 / np.sqrt(inputs))
            weights[f"{2 * i}.{kind}"] = torch.from_numpy(values.astype(np.float32))
    weights["4.bias"][CLUSTERS] += 3.0  # blanks are to be common
    sizes_told = {"vocab_size": CLUSTERS, "dim": WIDTH, "upstream_dim": WIDTH}
    torch.save({"model_cfg": sizes_told, "model_weight": weights}, folder / "linear.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--old-joblib", type=Path, help="folder that joblib 1.1.1 is installed in")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_kmeans(options.out)
    write_linear(options.out)
    if options.old_joblib:
        made = [options.old_joblib, options.out / "kmeans.npy", options.out / "kmeans_joblib_1_1.bin"]
        subprocess.run([sys.executable, "-I", "-c", OLD, *map(str, made)], check=True)
