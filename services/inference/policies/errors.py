"""Errors of policies.

    OmnialignError
    ├── NotFound            POLICY_NOT_FOUND
    ├── AlreadyExists       POLICY_EXISTS
    ├── FailedPrecondition  POLICY_STALE, POLICY_VERSION_NOT_NEWER
    ├── Unavailable         POLICY_NOT_ACKNOWLEDGED
    └── InvalidArgument     POLICY_BASE_IS_LORA, POLICY_UPDATE_MALFORMED, POLICY_FILES_INVALID, POLICY_WEIGHTS_MISMATCH

What only a delivery raises is defined beside it.
"""

from collections.abc import Mapping

from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OmnialignError, Unavailable


def policy_not_found(name: str) -> NotFound:
    """The error for a policy that is not open on this replica, because it was closed or the replica has restarted."""
    return NotFound(
        f"The policy {name} is not open here; open it with OpenPolicy and send its weights again.",
        reason="POLICY_NOT_FOUND",
        metadata={"name": name},
    )


def policy_exists(name: str, *, base: str, wanted: str) -> AlreadyExists:
    """The error for opening a policy that is open on another base model."""
    return AlreadyExists(
        f"The policy {name} is open on the base model {base}, not on {wanted}; close it first, or take another id.",
        reason="POLICY_EXISTS",
        metadata={"name": name, "base_model": base},
    )


def stale(name: str, *, wanted: int, held: int) -> FailedPrecondition:
    """The error for a request to a version that is not the held one."""
    return FailedPrecondition(
        f"Version {wanted} of the policy {name} is not held, {held} is; name that one, or none to take what is held.",
        reason="POLICY_STALE",
        metadata={"name": name, "wanted_version": str(wanted), "held_version": str(held)},
    )


def not_newer(name: str, *, version: int, held: int) -> FailedPrecondition:
    """The error for an update to a version that was there before, or that has other weights."""
    return FailedPrecondition(
        f"The policy {name} holds version {held}, and version {version} with these weights does not follow it; send a "
        "greater version, or close the policy and open it again.",
        reason="POLICY_VERSION_NOT_NEWER",
        metadata={"name": name, "version": str(version), "held_version": str(held)},
    )


def base_is_lora(name: str, base: str) -> InvalidArgument:
    """The error for a policy that is to start from a LoRA."""
    return InvalidArgument(
        f"The base model {base} of the policy {name} is a LoRA; open the policy on the LoRA's own base, and send the "
        "LoRA as its first version.",
        reason="POLICY_BASE_IS_LORA",
        metadata={"name": name, "base_model": base},
    )


def malformed(why: str) -> InvalidArgument:
    """The error for a stream whose messages are not those of an update."""
    return InvalidArgument(f"The update of the policy is malformed: {why}.", reason="POLICY_UPDATE_MALFORMED")


def files_invalid(path: str, why: str, mend: str) -> InvalidArgument:
    """The error for a file that cannot be one of a policy's weights."""
    return InvalidArgument(
        f"The file {path[:200]!r} of the policy {why}; {mend}.",
        reason="POLICY_FILES_INVALID",
        metadata={"path": path[:200]},
    )


def weights_mismatch(name: str, *, base: str, weight: str, why: str) -> InvalidArgument:
    """The error for weights that do not fit the base model; `weight` is the first that does not."""
    return InvalidArgument(
        f"The weights of {name} do not fit its base model {base}: {weight} {why}; send the weights of that model.",
        reason="POLICY_WEIGHTS_MISMATCH",
        metadata={"name": name, "base_model": base, "weight": weight},
    )


def not_acknowledged(name: str, failures: Mapping[str, OmnialignError]) -> Unavailable:
    """The error for a change that other replicas have not made; `failures` are theirs by address."""
    (address, first), *others = failures.items()
    more = f" and {len(others)} more" if others else ""
    return Unavailable(
        f"The replica at {address}{more} has not confirmed the change of the policy {name} ({first.message}); repeat "
        "the call.",
        reason="POLICY_NOT_ACKNOWLEDGED",
        metadata={"name": name, "replicas": ", ".join(failures), "cause": first.reason},
    )
