"""Attribute access with the semantics of CPython, in which every hook written in Python runs interpreted.

Most accesses cannot run Python code: the class has no `__getattribute__` or `__getattr__` in Python, and the class
attribute of that name, if any, is no property or descriptor in Python. Those are remembered for each interpreter
(`plain_attributes`: id of the class -> names) and done natively from then on. Interpreted code that assigns to a
class empties the memory. Should native code change a class behind the interpreter's back, the access is still
right, because it is native; it is only that the new hook runs natively.
"""

from __future__ import annotations

import sys
import warnings
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    TracebackType,
    WrapperDescriptorType,
)
from typing import Any

from .frame import DRIVEN_CODE, NULL, Frame
from .lookup import is_class, is_instance_of, type_lookup
from .program import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from .tracebacks import frame_of_traceback
from .trampolines import original_code


def _generator_frame(attribute: str) -> Any:
    def read(generator: Any) -> Any:
        native = getattr(generator, attribute)
        if native is None:
            return None
        return native.f_locals.get("frame", native)

    return read


def _origin(coroutine: Any) -> Any:
    frame = None if coroutine.cr_frame is None else coroutine.cr_frame.f_locals.get("frame")
    return frame.origin if type(frame) is Frame else coroutine.cr_origin


def _generator_code(attribute: str) -> Any:
    def read(generator: Any) -> Any:
        code = getattr(generator, attribute)
        driven = DRIVEN_CODE.get(id(code))
        return code if driven is None else driven[1]() or code

    return read


def _code_of_method(method: MethodType) -> Any:
    code: Any = getattr(method, "__code__")  # noqa: B009 - whatever the function's attribute is
    return original_code(code) if type(code) is CodeType else code


SPECIAL_ATTRIBUTES: dict[str, tuple[type, Any]] = {
    "__code__": (FunctionType, lambda function: original_code(function.__code__)),
    "tb_frame": (TracebackType, lambda traceback: frame_of_traceback(traceback.tb_frame)),
    "gi_frame": (GeneratorType, _generator_frame("gi_frame")),
    "cr_frame": (CoroutineType, _generator_frame("cr_frame")),
    "ag_frame": (AsyncGeneratorType, _generator_frame("ag_frame")),
    "gi_code": (GeneratorType, _generator_code("gi_code")),
    "cr_origin": (CoroutineType, _origin),
    "cr_code": (CoroutineType, _generator_code("cr_code")),
    "ag_code": (AsyncGeneratorType, _generator_code("ag_code")),
}
"""Attributes of native objects that show the interpreted program's frames and code instead of the interpreter's."""


def instance_has(obj: Any, name: str) -> bool:
    """Whether `name` is in the object's own dictionary."""
    try:
        return name in object.__getattribute__(obj, "__dict__")
    except AttributeError:
        return False


def is_data_descriptor(kind: type) -> bool:
    return type_lookup(kind, "__set__") is not NULL or type_lookup(kind, "__delete__") is not NULL


def python_getter(attribute: Any) -> bool:
    """Whether reading this class attribute through an instance runs Python code."""
    kind = type(attribute)
    if kind is FunctionType:
        return False
    if isinstance(attribute, property) and type_lookup(kind, "__get__") is _PROPERTY_GET:
        return attribute.fget is not None
    return type(type_lookup(kind, "__get__")) is FunctionType


_PROPERTY_GET = property.__dict__["__get__"]


def apply_getter(interp: Any, attribute: Any, obj: Any, cls: type) -> Any:
    """Reads a class attribute for which `python_getter` holds."""
    kind = type(attribute)
    getter = type_lookup(kind, "__get__")
    if getter is _PROPERTY_GET:
        return interp.call(attribute.fget, obj)
    return interp.call(getter, attribute, obj, cls)


def get_attribute(interp: Any, obj: Any, name: str) -> Any:
    """`obj.name`."""
    cls = type(obj)
    plain = interp.plain_attributes.get(id(cls))
    if plain is not None and name in plain:
        return getattr(obj, name)
    try:
        return _get_with_hooks(interp, obj, cls, name)
    except AttributeError as error:
        if error.name is None and error.obj is None and isinstance(name, str):
            # As a native access does with what Python code raised; suggestions for misspelt names need it.
            error.name, error.obj = name, obj
        raise


def _get_with_hooks(interp: Any, obj: Any, cls: type, name: str) -> Any:
    if name in SPECIAL_ATTRIBUTES:
        owner, read = SPECIAL_ATTRIBUTES[name]
        if cls is owner:
            return read(obj)
        if cls is MethodType and name == "__code__":
            return _code_of_method(obj)
    if cls is Frame and (name == "__module__" or not hasattr(FrameType, name)):
        raise AttributeError(f"'frame' object has no attribute '{name}'")
    getattribute = type_lookup(cls, "__getattribute__")
    fallback = type_lookup(cls, "__getattr__")
    if (type(getattribute) is not FunctionType and type(getattribute) is not WrapperDescriptorType) or (
        fallback is not NULL and type(fallback) is not FunctionType
    ):
        return getattr(obj, name)
    if fallback is NULL and cls is not super and not is_class(obj) and not is_instance_of(obj, ModuleType):
        if type(getattribute) is not FunctionType:
            attribute = type_lookup(cls, name)
            if attribute is NULL or not python_getter(attribute):
                interp.remember_plain(interp.plain_attributes, cls, name)
                return getattr(obj, name)
            if not is_data_descriptor(type(attribute)) and instance_has(obj, name):
                return getattr(obj, name)
            return apply_getter(interp, attribute, obj, cls)
        return interp.call(getattribute, obj, name)
    if not isinstance(name, str):
        return getattr(obj, name)
    try:
        return _without_fallback(interp, obj, cls, name, getattribute)
    except AttributeError:
        module_fallback = _module_fallback(obj) if fallback is NULL else NULL
        if fallback is NULL and module_fallback is NULL:
            raise
    # Outside of the `except` block: what the fallback raises has nothing to do with the failed attempt.
    return interp.call(module_fallback, name) if fallback is NULL else interp.call(fallback, obj, name)


def _module_fallback(obj: Any) -> Any:
    """The function `__getattr__` of a module, or NULL."""
    if is_instance_of(obj, ModuleType):
        return (obj.__dict__ or {}).get("__getattr__", NULL)  # up to 3.10 it may be None
    return NULL


def _without_fallback(interp: Any, obj: Any, cls: type, name: str, getattribute: Any) -> Any:
    if type(getattribute) is FunctionType:
        return interp.call(getattribute, obj, name)
    attribute = type_lookup(cls, name)
    if is_class(obj):
        return _of_class(interp, obj, cls, name, attribute, getattribute)
    if cls is super:
        return _of_super(interp, obj, name)
    if attribute is not NULL and python_getter(attribute):
        if is_data_descriptor(type(attribute)) or not instance_has(obj, name):
            return apply_getter(interp, attribute, obj, cls)
    if is_instance_of(obj, ModuleType) and "__getattr__" in (obj.__dict__ or ()):
        # The module's own lookup would call the hook natively; find the name without it.
        return object.__getattribute__(obj, name)
    return getattribute(obj, name)


def _of_class(interp: Any, obj: type, metaclass: type, name: str, attribute: Any, getattribute: Any) -> Any:
    if attribute is not NULL and python_getter(attribute) and is_data_descriptor(type(attribute)):
        return apply_getter(interp, attribute, obj, metaclass)
    own = type_lookup(obj, name)
    if own is NULL:
        if attribute is not NULL and python_getter(attribute):
            return apply_getter(interp, attribute, obj, metaclass)
    else:
        getter = type_lookup(type(own), "__get__")
        if type(getter) is FunctionType and not isinstance(own, property):
            return interp.call(getter, own, None, obj)
        if getter is NULL and (attribute is NULL or not is_data_descriptor(type(attribute))):
            return own
    return getattribute(obj, name)


def _of_super(interp: Any, obj: Any, name: str) -> Any:
    this_class = object.__getattribute__(obj, "__thisclass__")
    self_class = object.__getattribute__(obj, "__self_class__")
    instance = object.__getattribute__(obj, "__self__")
    if self_class is not None and name != "__class__" and instance is not self_class:
        order = self_class.__mro__
        for base in order[order.index(this_class) + 1 :] if this_class in order else ():
            namespace = base.__dict__
            if name in namespace:
                attribute = namespace[name]
                if python_getter(attribute):
                    return apply_getter(interp, attribute, instance, self_class)
                break
    return super.__getattribute__(obj, name)


def set_attribute(interp: Any, obj: Any, name: str, value: Any) -> None:
    """`obj.name = value`."""
    cls = type(obj)
    plain = interp.plain_stores.get(id(cls))
    if plain is not None and name in plain:
        setattr(obj, name, value)
        return
    hook = type_lookup(cls, "__setattr__")
    if type(hook) is FunctionType:
        interp.call(hook, obj, name, value)
        return
    if is_class(obj):
        interp.forget_plain_attributes()
    elif cls is FunctionType and name == "__code__":
        _set_code(interp, obj, value)
        return
    attribute = type_lookup(cls, name)
    if attribute is not NULL:
        kind = type(attribute)
        setter = type_lookup(kind, "__set__")
        if type(setter) is FunctionType:
            interp.call(setter, attribute, obj, value)
            return
        if setter is _PROPERTY_SET and attribute.fset is not None:
            interp.call(attribute.fset, obj, value)
            return
    elif not is_class(obj):
        interp.remember_plain(interp.plain_stores, cls, name)
    setattr(obj, name, value)


_PROPERTY_SET = property.__dict__["__set__"]


def _set_code(interp: Any, function: FunctionType, value: Any) -> None:
    """`function.__code__ = value`"""
    if type(value) is CodeType:
        interp.program(function.__code__).pin()
        before = original_code(function.__code__).co_flags
        if sys.version_info >= (3, 13) and (before ^ value.co_flags) & _KINDS_OF_CODE:
            # The native assignment compares trampolines, which are never generators.
            text = "Assigning a code object of non-matching type is deprecated"
            text += " (e.g., from a generator to a plain function)"
            interp.call(warnings.warn, text, DeprecationWarning)
        value = interp.code_to_install(value)
    function.__code__ = value


_KINDS_OF_CODE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR


def delete_attribute(interp: Any, obj: Any, name: str) -> None:
    """`del obj.name`."""
    cls = type(obj)
    hook = type_lookup(cls, "__delattr__")
    if type(hook) is FunctionType:
        interp.call(hook, obj, name)
        return
    if is_class(obj):
        interp.forget_plain_attributes()
    attribute = type_lookup(cls, name)
    if attribute is not NULL:
        deleter = type_lookup(type(attribute), "__delete__")
        if type(deleter) is FunctionType:
            interp.call(deleter, attribute, obj)
            return
        if deleter is _PROPERTY_DELETE and attribute.fdel is not None:
            interp.call(attribute.fdel, obj)
            return
    delattr(obj, name)


_PROPERTY_DELETE = property.__dict__["__delete__"]
