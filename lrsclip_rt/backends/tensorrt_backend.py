"""TensorRT behind the protocol of the backends: engines that were built for this device, or the reason."""

from __future__ import annotations

from functools import lru_cache

from lrsclip_rt.backends import GraphRequest, Session
from lrsclip_rt.errors import BackendError, LrsclipError

__all__ = ["has_gpu", "open_tensorrt", "tensorrt_obstacle", "tensorrt_precision_obstacle"]


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """The NVIDIA driver is there and finds a GPU."""
    from lrsclip_rt.cuda.device import device_info
    from lrsclip_rt.cuda.driver import cuda_driver

    try:
        device_info(cuda_driver())
    except BackendError:
        return False
    return True


@lru_cache(maxsize=1)
def tensorrt_obstacle() -> LrsclipError | None:
    """Why TensorRT cannot run on this machine, or None where there is a GPU and a version that is supported.

    Whether there are engines for it is said when a bundle is opened.
    """
    from lrsclip_rt.cuda.device import device_info
    from lrsclip_rt.cuda.driver import cuda_driver
    from lrsclip_rt.tensorrt.loading import runtime_module

    try:
        device_info(cuda_driver())
        runtime_module()
    except LrsclipError as error:
        return error
    return None


def tensorrt_precision_obstacle(precision: str) -> LrsclipError | None:
    """Why the first GPU does not run one of the backend's precisions, or None; also where there is no GPU."""
    from lrsclip_rt.cuda.device import device_info
    from lrsclip_rt.cuda.driver import cuda_driver
    from lrsclip_rt.tensorrt.bundle_building import refuse_precision

    try:
        capability = device_info(cuda_driver()).capability
    except BackendError:
        return None
    return refuse_precision(precision, capability)


def open_tensorrt(request: GraphRequest) -> Session:
    """Load the engine that was built from a graph.

    Args:
        request: The ONNX file in its bundle, its precision and content, and the device (``cuda:N``).

    Raises:
        DependencyError: If tensorrt is not installed.
        BackendError: If there is no GPU, or no engine for it; with the command that builds one.
    """
    from lrsclip_rt.cuda.device import Device, device_index
    from lrsclip_rt.cuda.driver import cuda_driver
    from lrsclip_rt.tensorrt.engine_folders import Target, find_engine
    from lrsclip_rt.tensorrt.engine_session import EngineSession
    from lrsclip_rt.tensorrt.loading import runtime_module

    if request.content is None:
        raise BackendError(f"{request.path} is run by tensorrt as part of its bundle only. Load the bundle")
    device = Device(cuda_driver(), device_index(request.device))
    trt = runtime_module()
    tower = request.path.name.partition(".")[0]
    target = Target(
        request.path.parent,
        request.precision,
        request.content,
        device.info.architecture,
        str(trt.__version__),
    )
    # The fixed graph of the texts is the short one at its full length: one engine answers for both.
    fixed = tower == "text-248"
    engine = find_engine(target, "text" if fixed else tower)
    return EngineSession(trt, engine, device, fixed_length=fixed)
