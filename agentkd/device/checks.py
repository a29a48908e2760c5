"""What a device checks of an executor before it is tried, besides its signature."""

from __future__ import annotations

from dataclasses import replace

from agentkd.deploy.bundle import Bundle, from_bytes
from agentkd.deploy.fit import check_contract, check_fit, check_numbers
from agentkd.deploy.vectors import answers, compiled
from agentkd.errors import AgentkdError, BundleError, DeviceError, DeviceReason, SpecError
from agentkd.executors.difference import actions_of, difference
from agentkd.executors.executor import About
from agentkd.executors.native import compile_native
from agentkd.spec import Spec
from agentkd.views import environment


def read(data: bytes, name: str) -> Bundle:
    """Read an executor file's bytes, which runs its golden vectors.

    Raises:
        DeviceError: If they are damaged, or give something else here than where they were made.
    """
    try:
        bundle = from_bytes(data)
    except BundleError as error:
        reason: DeviceReason = "golden" if error.reason == "golden" else "damaged"
        text = f"{name}: {error} Copy it again, or distil another one."
        raise DeviceError(text, "FETCHED", reason) from error
    about = About(bundle.provenance, bundle.contract)
    return replace(bundle, executor=replace(bundle.executor, about=about))


def check_all(bundle: Bundle, name: str, present: Bundle | None, spec: Spec | None) -> None:
    """Check what an executor does on this device, and that it is for this robot.

    Args:
        bundle: What was read.
        name: What its file is called.
        present: The one that acts, if there is one.
        spec: The environment, if the program tells.

    Raises:
        DeviceError: If something does not fit; its `reason` says what.
    """
    executor = bundle.executor
    try:
        if spec is not None:
            _check_spec(executor.spec, spec)
        if present is not None:
            check_fit(present.executor, executor)
            check_contract(present.contract, bundle.contract)
    except SpecError as error:
        raise DeviceError(f"{name}: {error}", "FETCHED", "unfit") from error
    try:
        check_numbers(executor)
    except AgentkdError as error:
        raise DeviceError(f"{name}: {error}", "FETCHED", "numbers") from error
    # Reading ran the golden vectors in NumPy. A form that cannot be built does not act here.
    native = compile_native(executor)
    if native is None:
        return
    golden = bundle.golden
    # With a memory they are episodes; the compiled form is asked about them as one.
    given = answers(executor, golden["obs"]) if executor.memory else golden["outputs"]
    wanted = given, actions_of(executor, given)
    _, text = difference(executor, *compiled(executor, native, golden["obs"]), *wanted)
    if text:
        raise DeviceError(
            f"{name}: its golden vectors differ in the compiled form: {text}. Distil another one.",
            "FETCHED",
            "golden",
        )


def _check_spec(spec: Spec, wanted: Spec) -> None:
    """Raise SpecError if an executor is for another environment."""
    if environment(spec) != environment(wanted):
        raise SpecError(f"It is for {spec}, not for {wanted}.")
