"""Arms of PyTorch with timm, and of thingsvision. Imports nothing of Folio: see --peers."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[..., dict[str, Any]]
BATCH = 32
NAMES = {  # Folio's name → timm's, if they differ
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "inception_v3": "tf_inception_v3",
    "mobilenet_v2": "mobilenetv2_100",
    "xception": "legacy_xception",
}


def timm_loop(*, backbone: str) -> Run:
    """Return an arm: ``ImageFolder``, ``DataLoader`` with one worker per core, a timm model for features."""
    import torch
    from torchvision import datasets, transforms

    model, size, mean, std = _timm_model(backbone)
    to_network = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    augment = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomAffine(40, translate=(0.2, 0.2), scale=(0.8, 1.2)),
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def features(folder: Path, *, augmented: bool) -> int:
        steps = [transforms.Resize((size, size)), *(augment if augmented else []), *to_network]
        images = datasets.ImageFolder(str(folder), transforms.Compose(steps))
        loader = torch.utils.data.DataLoader(images, batch_size=BATCH, num_workers=cores)
        with torch.inference_mode():
            return len(torch.cat([model(batch) for batch, _ in loader]))

    def run(*, data: str, views: int, **_: Any) -> dict[str, Any]:
        plain = sum(features(folder, augmented=False) for folder in sorted(Path(data).iterdir()))
        more = sum(features(Path(data) / "train", augmented=True) for _ in range(views))
        return {"units": plain, "renderings": plain + more, "precision": "float32", "batch_size": BATCH}

    return run


def timm_network(*, backbone: str, precision: str) -> Run:
    """Return an arm that only runs the timm model; bfloat16 uses autocast and, if it works, torch.compile."""
    import torch

    model, *_ = _timm_model(backbone)
    compiled = False
    context: Callable[[], Any] = contextlib.nullcontext
    if precision == "bfloat16":
        context = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
        attempt = torch.compile(model)
        # Without a C++ compiler this fails in many ways; the uncompiled model still runs.
        with contextlib.suppress(Exception), torch.inference_mode(), context():
            attempt(torch.zeros(BATCH, 3, 224, 224))
            model, compiled = attempt, True

    def run(*, pixels: str, seconds: float, **_: Any) -> dict[str, Any]:
        images = torch.from_numpy(np.load(pixels)).permute(0, 3, 1, 2).float().div(128).sub(1)
        images = images.contiguous(memory_format=torch.channels_last)
        done, start = 0, time.perf_counter()
        with torch.inference_mode(), context():
            for batch in itertools.cycle(images.split(BATCH)):
                if time.perf_counter() - start >= seconds:
                    break
                done += len(model(batch))
        counted = time.perf_counter() - start
        return {"units": done, "seconds_counted": counted, "precision": precision, "compiled": compiled}

    return run


def thingsvision_loop(*, backbone: str) -> Run:
    """Return an arm of thingsvision's extraction through timm, plain views only: it has no augmentation."""
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    name = NAMES.get(backbone, backbone)
    extractor = get_extractor(model_name=name, source="timm", device="cpu", pretrained=False)
    _, module = list(_pooling_modules(extractor.model))[-1]

    def run(*, data: str, **_: Any) -> dict[str, Any]:
        n_images = 0
        for number, folder in enumerate(sorted(Path(data).iterdir())):
            images = ImageDataset(
                root=str(folder),
                out_path=str(folder.parent.parent / f"thingsvision_{number}"),
                backend=extractor.get_backend(),
                transforms=extractor.get_transformations(),
            )
            batches = DataLoader(dataset=images, batch_size=BATCH, backend=extractor.get_backend())
            n_images += len(
                extractor.extract_features(batches=batches, module_name=module, flatten_acts=True)
            )
        return {"units": n_images, "renderings": n_images, "precision": "float32", "batch_size": BATCH}

    return run


def _pooling_modules(model: Any) -> Iterator[tuple[Any, str]]:
    for name, module in model.named_modules():
        if type(module).__name__ == "SelectAdaptivePool2d":
            yield module, name


def _timm_model(backbone: str) -> tuple[Any, int, tuple[float, ...], tuple[float, ...]]:
    """Return the model for pooled features, its input size, and the mean and standard deviation of pixels."""
    import timm
    import torch

    model = timm.create_model(NAMES.get(backbone, backbone), pretrained=False, num_classes=0)
    config = timm.data.resolve_data_config({}, model=model)
    model = model.eval().to(memory_format=torch.channels_last)
    return model, config["input_size"][-1], config["mean"], config["std"]
