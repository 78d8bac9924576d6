"""ONNX Runtime, the rival in inference on the CPU: as many threads as torch has, tensors bound without a copy."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .cases import Case
from .measure import Call

_OPSET = 17


def convolution(case: Case, weight: Tensor, bias: Tensor | None) -> bytes:
    """A model of one convolution."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {"weight": weight} | ({} if bias is None else {"bias": bias})
    (top, left), groups = case.padding, case.groups
    node = helper.make_node(
        "Conv",
        ["input", *constants],
        ["output"],
        kernel_shape=case.kernel,
        strides=case.stride,
        pads=(top, left, top, left),
        dilations=case.dilation,
        group=groups,
    )
    graph = helper.make_graph(
        [node],
        case.name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, case.input_size)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, case.output_size)],
        [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """A module in evaluation mode, exported for inputs of exactly these shapes."""
    file = io.BytesIO()
    names = [f"input{number}" for number in range(len(inputs))]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that this exporter is the older one: the newer needs one more package
        torch.onnx.export(
            model,
            inputs,
            file,
            dynamo=False,
            opset_version=_OPSET,
            input_names=names,
            output_names=["output"],
        )
    return file.getvalue()


def session(model: bytes, sets: Sequence[tuple[Tensor, ...]], output_size: Sequence[int]) -> Call:
    """Runs the model on one of the sets; the output is a tensor that the next call on this set overwrites."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry(
        "session.force_spinning_stop", "1"
    )  # spins within a run, not into the next's
    run = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in run.get_inputs()]
    bound = []
    for inputs in sets:
        binding, output = run.io_binding(), torch.empty(output_size)
        for name, tensor in zip(names, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        binding.bind_output("output", "cpu", 0, np.float32, tuple(output_size), output.data_ptr())
        bound.append((binding, output, inputs))  # the binding knows only addresses

    def call(number: int) -> Tensor:
        binding, output, _ = bound[number]
        run.run_with_iobinding(binding)
        return output

    return call
