"""Host-compiled kernels, one library a file and session."""

from __future__ import annotations

import pytest
from kernel_host import HostKernels, kernels_from_source

from lrsclip_kernels import FUSE, RESAMPLE, TOPK


@pytest.fixture(scope="session")
def resample_kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return kernels_from_source(RESAMPLE, tmp_path_factory.mktemp("resample"))


@pytest.fixture(scope="session")
def topk_kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return kernels_from_source(TOPK, tmp_path_factory.mktemp("topk"))


@pytest.fixture(scope="session")
def fuse_kernels(tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    return kernels_from_source(FUSE, tmp_path_factory.mktemp("fuse"))
