"""Epochs from JPEGs on a disk to trained weights: images a second, and who waits.

2,000 JPEGs of 400 x 300, quality 90, of ten classes; a ResNet-18 (with a quarter of its
channels and without the strides of its stem, which is as much to compute) at 64 x 64,
batch 64, float32, gradient descent with momentum; images are mirrored and shifted at
random, padded as torchvision does it. The loop is that of `linsey train`,
with the images streamed and held, against PyTorch with torchvision's folder and
loader. Each runs in processes of its own, which take turns. Evaluation, saving and
compiling do not count. *From nothing* is the first epoch with what has to be read
before; *epoch* is the median of the later ones.
Run with `python -m benchmarks.images`; `--images 200 --epochs 2` tries it in small.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness

RIVALS = ("torch", "linsey streamed", "linsey held")
GOAL, MOST_WAITING = ">= 0.85", "<= 0.05"


# Images a second, and the fraction of the time in which steps waited for data.
UNITS = {"epoch": "/s", "from nothing": "/s", "waiting": ""}


def run(given: argparse.Namespace) -> list[harness.Row]:
    """Measure all rivals, interleaved."""
    rivals = list(RIVALS)
    for package in ("torch", "torchvision"):
        if "torch" in rivals and importlib.util.find_spec(package) is None:
            harness.missing("torch", ImportError(f"{package} is not installed"))
            rivals.remove("torch")
    found: dict[str, list[dict[str, float]]] = {rival: [] for rival in rivals}
    with tempfile.TemporaryDirectory() as folder:
        from benchmarks.models.photos import make_folder

        make_folder(Path(folder), given.images, (given.width, given.height), 10)
        for round_ in range(given.rounds):
            turn = round_ % len(rivals)
            for rival in rivals[turn:] + rivals[:turn]:
                found[rival].append(in_new_process(rival, folder, given))
    rows = []
    for task, unit in UNITS.items():
        base = [one[task] for one in found.get("torch", [])]
        for rival, measured in found.items():
            values = [one[task] for one in measured]
            goal = {"epoch": GOAL, "waiting": MOST_WAITING}.get(task)
            is_ours = rival == "linsey streamed"
            rows.append(harness.summarise(
                task, rival, values, base if unit else None,
                goal if is_ours else None, unit,
            ))  # fmt: skip
    return rows


def in_new_process(
    rival: str, folder: str, given: argparse.Namespace
) -> dict[str, float]:
    """Measure one rival in a process that ends with it."""
    command = [sys.executable, "-m", "benchmarks.images", "--process", rival, folder]
    for name in ("epochs", "side", "batch", "channels", "workers"):
        command += [f"--{name}", str(getattr(given, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{rival}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(
    count: int, read: float, epochs: list[float], waited: float
) -> dict[str, float]:
    """Return images per second from the seconds of reading, epochs and waiting."""
    return {
        "epoch": count / statistics.median(epochs[1:] or epochs),
        "from nothing": count / (read + epochs[0]),
        "waiting": waited / sum(epochs),
    }


def with_linsey(folder: str, given: argparse.Namespace, held: bool) -> dict[str, float]:
    """Run the loop of the command, and return what it records of its speed."""
    from linsey.app.config import TrainConfig
    from linsey.app.metrics_log import MetricsLog, read
    from linsey.app.progress import progress
    from linsey.app.readers import load
    from linsey.app.stopping import StopRequest
    from linsey.app.trainer import Trainer
    from linsey.checkpoint import CheckpointStore

    config = TrainConfig(
        data=folder, model="resnet", depth=4, width=given.channels, lr=0.05,
        image_size=given.side, batch_size=given.batch, epochs=given.epochs,
        augment="flip,crop", test_fraction=0.05, image_memory=1024 if held else 0,
        workers=given.workers, log_every=1, checkpoint_every=10**9,
    )  # fmt: skip
    start = time.perf_counter()
    dataset = load(config, loading=config)
    reading = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as place:
        store = CheckpointStore(Path(place) / "checkpoints")
        trainer = Trainer(config, dataset, store)
        log = MetricsLog(Path(place) / "metrics.jsonl", None)
        with StopRequest() as stop, progress(0, trainer.total, True) as shown:
            trainer.run(log, shown, stop)
        log.close()
        records = [
            r for r in read(Path(place) / "metrics.jsonl") if r["kind"] == "train"
        ]
    speeds = [record["examples_per_second"] for record in records]
    # Of the step that compiled the speed is not known: that of the second.
    speeds[0] = speeds[1]
    steps = trainer.steps_per_epoch
    count = steps * given.batch
    seconds = [
        sum(given.batch / speed for speed in speeds[start : start + steps])
        for start in range(0, len(speeds), steps)
    ]
    return summary(count, reading, seconds, trainer.waited)


def with_torch(folder: str, given: argparse.Namespace) -> dict[str, float]:
    """Run the loop of a tutorial, with as many worker processes as there are cores."""
    import torch

    datasets, transforms = import_torchvision(torch)
    from benchmarks.models.torch_resnet import resnet

    torch.manual_seed(0)
    start = time.perf_counter()
    prepare = transforms.Compose([
        transforms.Resize((given.side, given.side)),
        transforms.RandomHorizontalFlip(),
        transforms.RandomCrop(given.side, padding=-(-given.side // 8)),
        transforms.ToTensor(), transforms.Normalize((0.45,) * 3, (0.25,) * 3),
    ])  # fmt: skip
    images = datasets.ImageFolder(folder, prepare)
    workers = given.workers
    loader = torch.utils.data.DataLoader(
        images, given.batch, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=workers > 0,
    )  # fmt: skip
    reading = time.perf_counter() - start
    # With fewer channels than 16 its kernels for channels last may crash.
    model = resnet(given.channels, 4, 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    epochs, waited = [], 0.0
    for _ in range(given.epochs):
        start = time.perf_counter()
        batches: Any = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                break
            x, y = batch
            x = x.contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        epochs.append(time.perf_counter() - start)
    return summary(len(loader) * given.batch, reading, epochs, waited)


def import_torchvision(torch: Any) -> tuple[Any, Any]:
    """Import its folders and transforms."""
    try:
        from torchvision import datasets, transforms
    except RuntimeError:
        # A wheel for another build of PyTorch has none of its own operators, which
        # folders and transforms do without; only that they are known is asked for.
        known = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            known.define(f"{name}(Tensor boxes, Tensor scores, float most) -> Tensor")
        from torchvision import datasets, transforms
    return datasets, transforms


def process(rival: str, folder: str, given: argparse.Namespace) -> dict[str, float]:
    """Measure one rival."""
    if rival == "torch":
        return with_torch(folder, given)
    return with_linsey(folder, given, held=rival.endswith("held"))


def parser() -> argparse.ArgumentParser:
    """Return the parser; options of the model hold for all rivals."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    for name, default in {
        "rounds": 5, "images": 2000, "width": 400, "height": 300, "side": 64,
        "batch": 64, "epochs": 3, "channels": 16, "workers": cores,
    }.items():  # fmt: skip
        result.add_argument(f"--{name}", type=int, default=default)
    result.add_argument("--process", nargs=2, metavar=("RIVAL", "FOLDER"))
    return result


if __name__ == "__main__":
    options = parser().parse_args()
    if options.process:
        print(json.dumps(process(*options.process, options)))
        raise SystemExit
    measured = run(options)
    harness.print_table("images: a second, and the fraction of waiting", measured)
    print(f"written to {harness.write_json('images', options.rounds, measured)}")
