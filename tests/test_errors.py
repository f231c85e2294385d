import copy
import pickle

import pytest

from pintsize import errors

ALL = [
    errors.InputError("x", "y", "z"),
    errors.InputTypeError("x", "y", "z"),
    errors.OperationError("x", "y", "z"),
    errors.UnsupportedOp("x", "y", "z"),
    errors.IllegalOrder("x", "y", "z"),
    errors.DataNotFound("x", "y", "z"),
    errors.CorruptFile("x", "y", "z"),
    errors.TrainingDiverged("x", "y", "z"),
    errors.VerificationFailed("x", "y", "z"),
    errors.MissingExtra("the hub", "hub"),
]


def test_the_message_names_object_cause_and_remedy():
    assert (
        str(errors.InputError("ratio=2", "it is above 1", "pass less")) == "ratio=2: it is above 1; pass less"
    )


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error):
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is type(error)
        assert str(same) == str(error)
        assert (same.what, same.cause, same.remedy) == (error.what, error.cause, error.remedy)


def test_user_mistakes_are_value_or_type_errors_and_failures_runtime_errors():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.InputTypeError, TypeError)
    assert issubclass(errors.OperationError, RuntimeError)
    assert all(isinstance(error, errors.PintsizeError) for error in ALL)


def test_missing_extra_names_what_to_install():
    assert "pip install 'pintsize[openvino]'" in str(errors.MissingExtra("OpenVINO", "openvino"))


def test_unknown_offers_the_nearest_names_nearest_first():
    error = errors.unknown("model", "resnet19", ["resnet18", "vgg16", "resnet34"])
    assert isinstance(error, errors.InputError)
    assert error.remedy.startswith("did you mean 'resnet18'")
    assert "vgg16" not in error.remedy


def test_unknown_lists_the_choices_when_none_is_near():
    assert errors.unknown("stem", "zzz", ["small", "imagenet"]).remedy == "choose one of: imagenet, small"


def test_unknown_takes_any_object():
    assert "there is no such bits" in str(errors.unknown("bits", 3.5, ["8"]))
