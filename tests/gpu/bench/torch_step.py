#!/usr/bin/env python3
"""tests/gpu/bench/torch_step.py -- the models of model.c in PyTorch, on the same card: microseconds of a dense step.

Eager, and torch.compile in its modes; bfloat16 autocast (or --precision float32, tf32); Adam, fused where there is one. Embeddings are
on the device already, as one bfloat16 tensor that wants its gradient, as in model.c; a step is forward, backward, optimizer. Times: CUDA events around each step, the median.
A row is printed as soon as it is there, so that a run that is stopped at its time limit has told what it had.
"""
import argparse
import statistics
import sys
import time

import torch
from torch import nn

FEATURES, DIM, DENSE = 26, 128, 13
BOTTOM, TOP = [512, 256, 128], [1024, 1024, 512, 256, 1]
CROSSES, RANK = 3, 512


def mlp(inputs, sizes, last):
    layers = []
    for i, size in enumerate(sizes):
        layers.append(nn.Linear(inputs, size))
        if last or i + 1 < len(sizes):
            layers.append(nn.ReLU())
        inputs = size
    return nn.Sequential(*layers)


class Dlrm(nn.Module):
    def __init__(self):
        super().__init__()
        n = FEATURES + 1
        self.bottom = mlp(DENSE, BOTTOM, True)
        self.top = mlp(DIM + n * (n - 1) // 2, TOP, False)
        i, j = torch.triu_indices(n, n, 1)
        self.register_buffer("i", i, persistent=False)
        self.register_buffer("j", j, persistent=False)

    def forward(self, dense, embeddings):
        bottom = self.bottom(dense)
        x = torch.cat([bottom.unsqueeze(1), embeddings.to(bottom.dtype)], 1)
        dots = torch.bmm(x, x.transpose(1, 2))[:, self.i, self.j]
        return self.top(torch.cat([bottom, dots], 1)).squeeze(1)


class DcnV2(nn.Module):
    def __init__(self):
        super().__init__()
        width = (FEATURES + 1) * DIM
        self.bottom = mlp(DENSE, BOTTOM, True)
        self.v = nn.ModuleList(nn.Linear(width, RANK, bias=False) for _ in range(CROSSES))
        self.u = nn.ModuleList(nn.Linear(RANK, width) for _ in range(CROSSES))
        self.top = mlp(width, TOP, False)

    def forward(self, dense, embeddings):
        bottom = self.bottom(dense)
        x0 = torch.cat([bottom, embeddings.to(bottom.dtype).flatten(1)], 1)
        x = x0
        for v, u in zip(self.v, self.u):
            x = x0 * u(v(x)) + x
        return self.top(x).squeeze(1)


class Step:
    """A model with its optimizer and one batch of random numbers."""

    def __init__(self, kind, args, batch, mode):
        torch.manual_seed(1)
        device = args.device
        self.network = kind().to(device)
        fused = {"fused": True} if device == "cuda" else {}
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3, **fused)
        self.dense = torch.randn(batch, DENSE, device=device)
        drawn = torch.randn(batch, FEATURES, DIM, device=device).mul_(0.1)
        self.embeddings = drawn.to(torch.bfloat16).requires_grad_()
        self.labels = (torch.rand(batch, device=device) < 0.25).float()
        self.device, self.half = device, args.precision == "bfloat16"
        self.loss = self.forward
        if mode != "eager":
            self.loss = torch.compile(self.forward, mode=None if mode == "compile" else mode, dynamic=False)

    def forward(self, dense, embeddings, labels):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            logit = self.network(dense, embeddings)
        return nn.functional.binary_cross_entropy_with_logits(logit.float(), labels)

    def __call__(self):
        self.optimizer.zero_grad(set_to_none=True)
        self.embeddings.grad = None
        loss = self.loss(self.dense, self.embeddings, self.labels)
        loss.backward()
        self.optimizer.step()
        return loss


def times_us(step, device, steps, warm):
    for _ in range(warm):
        loss = step()
    if not torch.isfinite(loss).item():
        raise RuntimeError("the loss is not finite")
    times = []
    for _ in range(steps):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step()
            end.record()
            times.append((begin, end))
        else:
            at = time.perf_counter()
            step()
            times.append((time.perf_counter() - at) * 1e6)
    if device == "cuda":
        torch.cuda.synchronize()
        times = [begin.elapsed_time(end) * 1e3 for begin, end in times]
    return sorted(times)


def modes_of(args):
    if args.modes:
        return args.modes.split(",")
    if args.device == "cpu" or not hasattr(torch, "compile"):
        return ["eager"]
    return ["eager", "compile", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


def measure(name, kind, batch, mode, args):
    """One row; what does not work is told, and is no figure."""
    try:
        if hasattr(torch, "_dynamo"):
            torch._dynamo.reset()
        times = times_us(Step(kind, args, batch, mode), args.device, args.steps, args.warm)
    except Exception as error:  # of any compiler's kind
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"| {name} | {batch} | {mode} | - | - | {why[:80]} |", flush=True)
        return
    median, p95 = statistics.median(times), times[int(0.95 * (len(times) - 1) + 0.5)]
    print(f"| {name} | {batch} | {mode} | {median:.1f} | {p95:.1f} | |", flush=True)
    if args.device == "cuda":
        print(f"figure torch.{name}.{batch}.{args.precision}.{mode} {median:.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--batch", default="8192,65536", help="sizes, with commas")
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "tf32", "float32"])
    parser.add_argument("--modes", help="of eager, compile, reduce-overhead, max-autotune, max-autotune-no-cudagraphs")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warm", type=int, default=12)
    parser.add_argument("--parameters", default="", help="dlrm=N,dcn_v2=N: what model.c has; another number is an error")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("skipped: PyTorch finds no GPU")
        return 77
    torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    models = {"dlrm": Dlrm, "dcn_v2": DcnV2}
    ours = dict(pair.split("=") for pair in args.parameters.split(",") if pair)
    for name, kind in models.items():
        count = sum(p.numel() for p in kind().parameters())
        print(f"{name}: {count} parameters")
        if name in ours and int(ours[name]) != count:
            print(f"{name}: ours has {ours[name]}: not the same model", file=sys.stderr)
            return 1
    print(f"PyTorch {torch.__version__}, {args.device}, {args.precision}, Adam\n")
    print("| model | batch | mode | median, microseconds | p95 | |\n| --- | --- | --- | --- | --- | --- |")
    for batch in map(int, args.batch.split(",")):
        for mode in modes_of(args):
            for name, kind in models.items():
                measure(name, kind, batch, mode, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
