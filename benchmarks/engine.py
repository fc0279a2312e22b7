"""How fast the engine steps dense and sparse networks, next to ONNX Runtime and torch.

    python benchmarks/engine.py [--quick] [--peers]
    EARSHOT_ISA=avx2 python benchmarks/engine.py

Two encoders: five LSTM layers of 640 units over 240 inputs, and the embedded model's own. Weights
are Gaussian noise, blocks of least magnitude set to zero, and everybody runs the same ones. What is
timed is one step of 40 ms with the state of the step before, as a microphone gives them.
Contestants take turns in one process, pinned to one core and one thread: a few steps each, then
the next. *Warm* steps follow one another; a *cold* step comes after reading a buffer larger than
the last cache. The last line is one JSON object; a speedup in it is the best form of ONNX
Runtime's int8 over ours, medians unless it says otherwise. Nothing here is about accuracy: see
`compression.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper
from onnx_runner import one_thread_session
from onnxruntime.quantization import (  # type: ignore[import-untyped]
    QuantType,
    quantize_dynamic,
)
from systems import default_model
from wer import circumstances, print_aligned

from earshot import _native
from earshot.compress.onnx_graph import GraphWriter, onnx_gates
from earshot.modelfile.codecs import (
    EncodedTensor,
    encode_f32,
    encode_f32_r16,
    encode_int4,
    encode_int8,
    encode_sparse,
    fit_codebook,
    lstm_unit_blocks,
)
from earshot.modelfile.reader import ModelFile
from earshot.modelfile.writer import write_model

ROOT = Path(__file__).resolve().parents[1]
LAYERS, HIDDEN, INPUTS = 5, 640, 240
BINS, STACK = 80, 4
SEED = 7
STEPS_A_TURN, WARM_UP = 12, 3
AIMS = {
    "avx512vnni": {
        "speedup_int8_75_16x1": 4.0,
        "speedup_int4_75_16x1": 5.0,
        "speedup_int4_90_16x4": 10.0,
    },
    "avx2": {"speedup_int8_75_16x1": 1.8, "speedup_int8_75_16x4": 3.0},
}
LARGEST = {"open_ms": 5.0, "rss_over_file": 1.3}
SMALLEST = {"file_ratio_int8_75_16x1": 3.8, "file_ratio_int4_75_16x1": 7.0}

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Form:
    """How our engine holds a matrix.

    Args:
        bits: 32, 8 or 4.
        zeros: Share of blocks that are zero, in percent.
        block: Rows and columns of a block; None for a dense matrix.
    """

    bits: int
    zeros: int = 0
    block: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        kind = {32: "fp32", 8: "int8", 4: "int4"}[self.bits]
        return kind if self.block is None else f"{kind} {self.zeros} % 16x{self.block[1]}"

    @property
    def key(self) -> str:
        kind = {32: "fp32", 8: "int8", 4: "int4"}[self.bits]
        return kind if self.block is None else f"{kind}_{self.zeros}_16x{self.block[1]}"

    def encode(self, weights: Array) -> EncodedTensor:
        """The matrix, pruned, as it goes into the file."""
        if self.bits == 32:
            return encode_f32_r16(weights)
        kept = weights if self.block is None else pruned(weights, self.zeros, self.block)
        if self.bits == 8:
            if self.block is None:
                return encode_int8(kept)
            return encode_sparse(kept, block=self.block, bits=8)
        # The search for the best scale of a row takes seconds here and changes no time.
        scale = np.abs(kept).max(axis=1) / 127
        book = fit_codebook(kept)
        if self.block is None:
            return encode_int4(kept, codebook=book, scale=scale)
        return encode_sparse(kept, block=self.block, bits=4, codebook=book, scale=scale)


DENSE = (Form(8), Form(4))
SPARSE = tuple(
    Form(bits, zeros, (16, columns))
    for zeros, columns, bits in itertools.product((50, 75, 90), (1, 4), (8, 4))
)
QUICK = tuple(
    Form(bits, zeros, (16, columns))
    for bits, zeros, columns in ((8, 75, 1), (4, 75, 1), (8, 75, 4), (4, 90, 4))
)
HEADLINE = Form(8, 75, (16, 1))


def pruned(weights: Array, zeros: int, block: tuple[int, int]) -> Array:
    """The blocks of least squared sum set to zero, `zeros` percent of them."""
    rows, columns = weights.shape
    short = (-rows % block[0], -columns % block[1])
    padded = np.pad(weights, ((0, short[0]), (0, short[1])))
    tiles = padded.reshape(padded.shape[0] // block[0], block[0], -1, block[1])
    score = np.einsum("arbc,arbc->ab", tiles, tiles)
    keep = score > np.quantile(score, zeros / 100)
    mask = np.repeat(np.repeat(keep, block[0], 0), block[1], 1)[:rows, :columns]
    return np.where(mask, weights, np.float32(0))


@dataclass(slots=True)
class Stepper:
    """Something that makes one step of 40 ms, and how long that took."""

    encoder: str
    engine: str
    form: str
    step: Callable[[], object]
    file_bytes: int
    warm_us: list[float] = field(default_factory=list)
    cold_us: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """As it goes into the JSON object."""
        return {
            "encoder": self.encoder,
            "engine": self.engine,
            "form": self.form,
            "us_median": round(float(np.median(self.warm_us)), 2),
            "us_p10": round(float(np.percentile(self.warm_us, 10)), 2),
            "cold_us_median": round(float(np.median(self.cold_us)), 2),
            "steps": len(self.warm_us),
            "file_bytes": self.file_bytes,
        }


# --- networks -------------------------------------------------------------------------------


def gaussian_layers() -> list[tuple[Array, Array]]:
    """Weights [W | R] of every layer with stacked gates i, f, g, o, and biases."""
    rng = np.random.default_rng(SEED)
    layers = []
    for layer in range(LAYERS):
        width = (INPUTS if layer == 0 else HIDDEN) + HIDDEN
        weight = rng.standard_normal((4 * HIDDEN, width), np.float32) * np.float32(width**-0.5)
        layers.append((weight, np.float32(0.1) * rng.standard_normal(4 * HIDDEN, np.float32)))
    return layers


def shared_weights(layers: Sequence[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """What engines without sparse products run: the weights of the headline's form."""
    assert HEADLINE.block is not None
    return [
        # Pruned in the engine's order of rows, as its file has them, and put back.
        (stacked(pruned(lstm_unit_blocks(w), HEADLINE.zeros, HEADLINE.block)), b)
        for w, b in layers
    ]


def stacked(blocks: Array) -> Array:
    """The inverse of `lstm_unit_blocks`."""
    rest = blocks.shape[1:]
    return blocks.reshape(-1, 4, 16, *rest).swapaxes(0, 1).reshape(blocks.shape)


def write_lstm(path: Path, layers: Sequence[tuple[Array, Array]], form: Form) -> None:
    """The stack of layers as a `.ear` file: one matrix [W | R] a layer."""
    tensors: dict[str, EncodedTensor] = {}
    nodes, value = [], "x"
    for number, (weight, bias) in enumerate(layers):
        names = {"weight": f"{number}.w", "bias": f"{number}.b"}
        tensors[names["weight"]] = form.encode(lstm_unit_blocks(weight))
        tensors[names["bias"]] = encode_f32(lstm_unit_blocks(bias))
        out = f"h{number}"
        nodes.append({"op": "lstm", "in": [value], "out": out, "hidden": HIDDEN, "tensors": names})
        value = out
    graph = {"inputs": ["x"], "outputs": [value], "nodes": nodes}
    write_model(path, name="lstm-5x640", graphs={"lstm": graph}, tensors=tensors)


def write_embedded(path: Path, source: ModelFile, form: Form) -> None:
    """The embedded model's encoder with Gaussian weights of the same sizes."""
    header: Any = source.header
    graph = header["graphs"]["encoder"]
    rng = np.random.default_rng(SEED)
    tensors = {}
    used = {name for node in graph["nodes"] for name in node.get("tensors", {}).values()}
    for info in source.tensors:
        if info.name not in used:
            continue
        if info.codec == "f32":
            tensors[info.name] = encode_f32(source.dequantise(info.name))
        else:
            weights = rng.standard_normal(info.shape, np.float32)
            weights *= np.float32(info.shape[1] ** -0.5)
            tensors[info.name] = form.encode(weights)
    write_model(path, name="encoder", graphs={"network": graph}, tensors=tensors)


# --- contestants ----------------------------------------------------------------------------


def our_stepper(path: Path, encoder: str, form: Form, x: Array) -> Stepper:
    """Our engine over a file of one graph."""
    model = _native.Model(str(path))
    (name,) = model.graph_names
    graph = model.graph(name)
    state = graph.initial_state()
    return Stepper(encoder, "earshot", form.name, lambda: graph.step(x, state), path.stat().st_size)


def onnx_stepper(path: Path, encoder: str, form: str, x: Array) -> Stepper:
    """ONNX Runtime with every buffer bound in advance; states swap places from step to step."""
    session = one_thread_session(path)
    values = {
        i.name: [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(i.shape, np.float32))
                 for _ in range(2)]
        for i in session.get_inputs()
        if i.name != "x"
    }  # fmt: skip
    source = onnxruntime.OrtValue.ortvalue_from_numpy(x)
    bindings = []
    for turn in range(2):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", source)
        for name, pair in values.items():
            binding.bind_ortvalue_input(name, pair[turn])
            binding.bind_ortvalue_output(f"{name}.next", pair[1 - turn])
        for output in session.get_outputs():
            if not output.name.endswith(".next"):
                binding.bind_output(output.name, "cpu")
        bindings.append(binding)
    turns = itertools.cycle(bindings)
    run = session.run_with_iobinding
    return Stepper(encoder, "onnxruntime", form, lambda: run(next(turns)), path.stat().st_size)


def lstm_graph(layers: Sequence[tuple[Array, Array]], *, cells: bool) -> onnx.ModelProto:
    """The stack as ONNX: LSTM operators, or cells of one product over [x, h] each.

    Args:
        layers: [W | R] with stacked gates, and biases.
        cells: One MatMul a layer instead of an LSTM operator.
    """
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, npt.NDArray[Any]] = {"axis": np.array([1], np.int64)}
    shape = [1, HIDDEN] if cells else [1, 1, HIDDEN]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS])]
    outputs = []
    value = "x"
    if not cells:
        nodes.append(helper.make_node("Unsqueeze", ["x", "axis"], ["x.batched"]))
        value = "x.batched"
    for number, (weight, bias) in enumerate(layers):
        at = f"l{number}"
        for state in ("h", "c"):
            inputs.append(helper.make_tensor_value_info(f"{at}.{state}", TensorProto.FLOAT, shape))
            outputs.append(
                helper.make_tensor_value_info(f"{at}.{state}.next", TensorProto.FLOAT, shape)
            )
        if cells:
            constants |= {f"{at}.w": np.ascontiguousarray(weight.T), f"{at}.b": bias}
            for op, sources, results, attributes in (
                ("Concat", [value, f"{at}.h"], [f"{at}.xh"], {"axis": 1}),
                ("MatMul", [f"{at}.xh", f"{at}.w"], [f"{at}.z"], {}),
                ("Add", [f"{at}.z", f"{at}.b"], [f"{at}.pre"], {}),
                ("Split", [f"{at}.pre"], [f"{at}.{g}0" for g in "ifgo"], {"axis": 1}),
                ("Sigmoid", [f"{at}.i0"], [f"{at}.i"], {}),
                ("Sigmoid", [f"{at}.f0"], [f"{at}.f"], {}),
                ("Tanh", [f"{at}.g0"], [f"{at}.g"], {}),
                ("Sigmoid", [f"{at}.o0"], [f"{at}.o"], {}),
                ("Mul", [f"{at}.f", f"{at}.c"], [f"{at}.kept"], {}),
                ("Mul", [f"{at}.i", f"{at}.g"], [f"{at}.new"], {}),
                ("Add", [f"{at}.kept", f"{at}.new"], [f"{at}.c.next"], {}),
                ("Tanh", [f"{at}.c.next"], [f"{at}.t"], {}),
                ("Mul", [f"{at}.o", f"{at}.t"], [f"{at}.h.next"], {}),
            ):
                nodes.append(helper.make_node(op, sources, results, **attributes))  # type: ignore[arg-type]
            value = f"{at}.h.next"
        else:
            gates = onnx_gates(lstm_unit_blocks(weight))
            width = weight.shape[1] - HIDDEN
            # ONNX adds two biases; ours is one.
            both = np.concatenate([onnx_gates(lstm_unit_blocks(bias)), np.zeros_like(bias)])
            constants |= {
                f"{at}.W": np.ascontiguousarray(gates[None, :, :width]),
                f"{at}.R": np.ascontiguousarray(gates[None, :, width:]),
                f"{at}.B": both[None],
            }
            sources = [value, f"{at}.W", f"{at}.R", f"{at}.B", "", f"{at}.h", f"{at}.c"]
            results = [f"{at}.y", f"{at}.h.next", f"{at}.c.next"]
            nodes.append(helper.make_node("LSTM", sources, results, hidden_size=HIDDEN))
            nodes.append(helper.make_node("Squeeze", [f"{at}.y", "axis"], [f"{at}.out"]))
            value = f"{at}.out"
    nodes.append(helper.make_node("Identity", [value], ["out"]))
    out_shape = [1, HIDDEN] if cells else [1, 1, HIDDEN]
    outputs.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, out_shape))
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def embedded_graph(path: Path) -> onnx.ModelProto:
    """What `write_embedded` wrote as ONNX, one input and output for every state."""
    file = ModelFile(path)
    graphs: Any = file.header["graphs"]
    writer = GraphWriter(path, file.dequantise, {"network/x": BINS})
    writer.emit("Identity", ["x"], "network/x")
    writer.add_graph("network", graphs["network"], outputs=graphs["network"]["outputs"])
    for name in graphs["network"]["outputs"]:
        writer.emit("Identity", [f"network/{name}"], name)
    states = {state.name: [1, 1, state.width] for state in writer.states}
    return writer.model(
        "network",
        inputs={
            "x": (TensorProto.FLOAT, [STACK, 1, BINS]),
            **{name: (TensorProto.FLOAT, shape) for name, shape in states.items()},
        },
        outputs={
            **{n: [1, 1, writer.widths[f"network/{n}"]] for n in graphs["network"]["outputs"]},
            **{f"{name}.next": shape for name, shape in states.items()},
        },
        metadata={},
    )


def onnx_forms(model: onnx.ModelProto, folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """A float graph and its dynamic int8 forms: name and file of each."""
    logging.getLogger().setLevel(logging.ERROR)  # or it advises shape inference each time
    plain = folder / f"{name}.fp32.onnx"
    onnx.save(model, str(plain))
    yield f"fp32 {name}", plain
    for kind, per_channel in (
        (QuantType.QUInt8, False), (QuantType.QInt8, False), (QuantType.QInt8, True)
    ):  # fmt: skip
        label = f"int8 {name} {'u8' if kind == QuantType.QUInt8 else 's8'}"
        label += " per channel" if per_channel else ""
        path = folder / f"{label.replace(' ', '-')}.onnx"
        quantize_dynamic(str(plain), str(path), weight_type=kind, per_channel=per_channel)
        yield label, path


def torch_steppers(layers: Sequence[tuple[Array, Array]], x: Array) -> list[Stepper]:
    """torch.nn.LSTM in fp32 and dynamically quantised; none where torch is missing."""
    try:
        import torch
    except ImportError:
        print("torch is not installed: its rows are missing. Run `pip install '.[train]'`")
        return []
    torch.set_num_threads(1)
    torch.backends.quantized.engine = "fbgemm"
    warnings.filterwarnings("ignore", message="torch.ao.quantization is deprecated")
    network = torch.nn.LSTM(INPUTS, HIDDEN, LAYERS)
    with torch.no_grad():
        for number, (weight, bias) in enumerate(layers):
            width = weight.shape[1] - HIDDEN
            for name, array in (
                ("weight_ih", weight[:, :width]), ("weight_hh", weight[:, width:]),
                ("bias_ih", bias), ("bias_hh", np.zeros_like(bias)),
            ):  # fmt: skip
                getattr(network, f"{name}_l{number}").copy_(torch.from_numpy(array.copy()))
    network.eval()
    steppers = []
    source = torch.from_numpy(x)[:, None]
    for form, module in (
        ("fp32", network),
        ("int8 dynamic", torch.ao.quantization.quantize_dynamic(network, {torch.nn.LSTM})),
    ):
        held = {"state": tuple(torch.zeros(LAYERS, 1, HIDDEN) for _ in range(2))}

        def step(module: Any = module, held: dict[str, Any] = held) -> None:
            # Without MKL-DNN, which packs the weights anew at every step and takes several times
            # as long.
            with torch.inference_mode(), torch.backends.mkldnn.flags(enabled=False):
                _, held["state"] = module(source, held["state"])

        size = sum(weight.size for weight, _ in layers) * (4 if form == "fp32" else 1)
        steppers.append(Stepper("5x640", "torch", form, step, size))
    return steppers


# --- timing ---------------------------------------------------------------------------------


def larger_than_caches() -> npt.NDArray[np.uint8]:
    """A buffer whose reading drives everything else out of the last cache."""
    try:
        cache = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    except (OSError, ValueError):
        cache = 0
    return np.ones(max(96 << 20, cache + cache // 8), np.uint8)


def race(steppers: Sequence[Stepper], *, seconds: float, cold_rounds: int) -> None:
    """Lets everybody step in turns, a few steps a turn, until the time is up."""
    clock = time.perf_counter_ns
    end = clock() + round(seconds * 1e9)
    for number in itertools.count():
        for turn in range(len(steppers)):
            stepper = steppers[(turn + number) % len(steppers)]
            step = stepper.step
            for _ in range(WARM_UP):
                step()
            for _ in range(STEPS_A_TURN):
                start = clock()
                step()
                stepper.warm_us.append((clock() - start) / 1e3)
        if clock() > end and number >= 2:
            break
    filler = larger_than_caches()
    for number in range(cold_rounds):
        for turn in range(len(steppers)):
            stepper = steppers[(turn + number) % len(steppers)]
            filler.max()
            start = clock()
            stepper.step()
            stepper.cold_us.append((clock() - start) / 1e3)


def open_ms(path: Path, *, repeats: int) -> float:
    """Median milliseconds to open a file with all its checks, its pages in the file cache."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        _native.Model(str(path))
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times))


def rss_over_file(path: Path, small: Path, x: Array) -> float:
    """Resident memory that opening a model and ten steps add to a process, over its file's size.

    Another model has run before: the engine's own code and the first growth of the heap are no part
    of it.
    """
    code = (
        "import sys, numpy as np\n"
        "from earshot import _native\n"
        "def resident():\n"
        "    return 4096 * int(open('/proc/self/statm').read().split()[1])\n"
        "def run(path, x):\n"
        "    model = _native.Model(path)\n"
        "    graph = model.graph(model.graph_names[0])\n"
        "    state = graph.initial_state()\n"
        "    for _ in range(10): graph.step(x, state)\n"
        "    return model, graph, state\n"
        f"x = np.ones({x.shape!r}, np.float32)\n"
        f"kept = run({str(small)!r}, x)\n"
        "before = resident()\n"
        f"more = run({str(path)!r}, x)\n"
        "print(resident() - before)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"error: the memory measurement failed: {done.stderr.strip()[-400:]}")
    return int(done.stdout) / path.stat().st_size


# --- report ---------------------------------------------------------------------------------


def of(steppers: Sequence[Stepper], encoder: str, engine: str, form: str) -> list[Stepper]:
    """Those of an encoder and an engine whose form starts so."""
    return [
        s
        for s in steppers
        if (s.encoder, s.engine) == (encoder, engine) and s.form.startswith(form)
    ]


def speedups(steppers: Sequence[Stepper], forms: Sequence[Form]) -> dict[str, Any]:
    """Best int8 of ONNX Runtime over ours: medians, 10th percentiles, cold."""
    found: dict[str, Any] = {}
    for encoder, prefix in (("5x640", ""), ("embedded", "embedded_")):
        theirs = of(steppers, encoder, "onnxruntime", "int8")
        for suffix, figure in (
            ("", lambda s: np.median(s.warm_us)),
            ("_p10", lambda s: np.percentile(s.warm_us, 10)),
            ("_cold", lambda s: np.median(s.cold_us)),
        ):
            best = min(figure(stepper) for stepper in theirs)
            for form in forms:
                (ours,) = [
                    s for s in of(steppers, encoder, "earshot", form.name) if s.form == form.name
                ]
                found[f"{prefix}speedup_{form.key}{suffix}"] = round(float(best / figure(ours)), 2)
        smallest = min(stepper.file_bytes for stepper in theirs)
        for form in forms:
            (ours,) = [
                s for s in of(steppers, encoder, "earshot", form.name) if s.form == form.name
            ]
            ratio = smallest / ours.file_bytes
            found[f"{prefix}file_ratio_{form.key}"] = round(ratio, 3)
    return found


def print_report(steppers: Sequence[Stepper]) -> None:
    """The table of step times."""
    lines: list[tuple[str, ...]] = [
        ("encoder", "engine", "form", "us median", "us p10", "cold us", "MB", "vs best ort int8")
    ]
    for encoder in dict.fromkeys(s.encoder for s in steppers):
        best = min(np.median(s.warm_us) for s in of(steppers, encoder, "onnxruntime", "int8"))
        for stepper in steppers:
            if stepper.encoder == encoder:
                row = stepper.row()
                lines.append(
                    (
                        encoder,
                        stepper.engine,
                        stepper.form,
                        f"{row['us_median']:.1f}",
                        f"{row['us_p10']:.1f}",
                        f"{row['cold_us_median']:.0f}",
                        f"{stepper.file_bytes / 1e6:.2f}",
                        f"{best / row['us_median']:.2f}",
                    )
                )
    print_aligned(lines)


def missed(report: Mapping[str, Any]) -> list[str]:
    """Aims that the figures miss."""
    aims = AIMS.get(report["isa"], {}) | SMALLEST
    low = [f"{k} is {report[k]}, aim {v}" for k, v in aims.items() if report[k] < v]
    return low + [f"{k} is {report[k]}, aim {v}" for k, v in LARGEST.items() if report[k] > v]


def peers(*, quick: bool) -> dict[str, Any]:
    """Whole recognisers, ours against sherpa-onnx with our export; says what is missing."""
    from races import test_audio
    from sherpa_race import race_sherpa
    from speech_sets import data_folder

    ratios = ("sherpa_cpu_ratio", "sherpa_rss_ratio", "sherpa_cold_ratio")
    clips, _ = test_audio(data_folder(), seconds=10.0 if quick else 60.0)
    try:
        found = race_sherpa(default_model(), clips, repeats=1 if quick else 9, python=not quick)
    except SystemExit as err:
        print(f"sherpa-onnx did not run: {err}")
        return dict.fromkeys(ratios) | {"sherpa": str(err)}
    return {name: found[name] for name in ratios} | {"sherpa": found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 0 unless something cannot run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer forms and rounds, under 40 s")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also race sherpa-onnx (with --quick one short run); builds the C library first",
    )
    parser.add_argument("--seconds", type=float, help="of warm steps (default 40, quick 8)")
    parser.add_argument("--core", type=int, help="pin to this core (default: the last allowed)")
    options = parser.parse_args(arguments)
    core = options.core if options.core is not None else max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    forms = QUICK if options.quick else (*DENSE, *SPARSE)
    seconds = options.seconds or (8.0 if options.quick else 40.0)

    layers = gaussian_layers()
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((1, INPUTS), np.float32)
    steppers: list[Stepper] = []
    report: dict[str, Any] = {"isa": _native.isa(), "core": core}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = tuple(dict.fromkeys((Form(8), *forms)))
        lstm = {form: folder / f"lstm-{form.key}.ear" for form in ours}
        for form, path in lstm.items():
            write_lstm(path, layers, form)
        steppers += [our_stepper(path, "5x640", form, x) for form, path in lstm.items()]
        shared = shared_weights(layers)
        for cells in (False, True):
            model = lstm_graph(shared, cells=cells)
            for label, path in onnx_forms(model, folder, "cells" if cells else "operators"):
                steppers.append(onnx_stepper(path, "5x640", label, x))
        steppers += torch_steppers(shared, x)

        source = ModelFile(default_model())
        frames = rng.standard_normal((STACK, BINS), np.float32)
        small = {form: folder / f"embedded-{form.key}.ear" for form in ours}
        for form, path in small.items():
            write_embedded(path, source, form)
            steppers.append(our_stepper(path, "embedded", form, frames))
        for label, path in onnx_forms(embedded_graph(small[HEADLINE]), folder, "operators"):
            steppers.append(onnx_stepper(path, "embedded", label, frames[:, None]))

        race(steppers, seconds=seconds, cold_rounds=2 if options.quick else 7)
        print_report(steppers)
        report |= speedups(steppers, forms)
        dense = lstm[Form(8)].stat().st_size
        for form in forms:
            ratio = dense / lstm[form].stat().st_size
            report[f"file_ratio_{form.key}_to_dense_ear"] = round(ratio, 3)
        report["open_ms"] = round(open_ms(lstm[HEADLINE], repeats=21), 2)
        report["open_ms_dense"] = round(open_ms(lstm[Form(8)], repeats=21), 2)
        report["rss_over_file"] = round(rss_over_file(lstm[HEADLINE], lstm[QUICK[3]], x), 3)
    if options.peers:
        report |= peers(quick=options.quick)
    report["rows"] = [stepper.row() for stepper in steppers]
    for line in missed(report):
        print(f"missed: {line}")
    print(json.dumps(circumstances([default_model()]) | report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
