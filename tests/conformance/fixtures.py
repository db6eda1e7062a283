"""The tools, resources and prompts that the official suite's core scenarios expect of a server.

Their names, arguments and texts are the suite's. All of them answer in wire form.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import anyio
from mcp.server.subscriptions import PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.uri_template import UriTemplate
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SamplingMessage,
    TextContent,
)

from mcp_pools.subscriptions import LISTENING

IMAGE: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
SOUND: Final = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA="

Wire = dict[str, Any]
Call = Callable[[Any, Wire], Awaitable[Wire]]
"""`call(ctx, arguments)`: a tool's or prompt's result."""

TOOLS: dict[str, Call] = {}
PROMPTS: dict[str, Call] = {}


def tool(call: Call) -> Call:
    """A tool of the suite, by its function's name."""
    TOOLS[call.__name__] = call
    return call


def prompt(call: Call) -> Call:
    """A prompt of the suite."""
    PROMPTS[call.__name__] = call
    return call


def result(*content: Wire, **more: Any) -> Wire:
    """A tool's result."""
    return {"content": list(content), "isError": False, "resultType": "complete", **more}


def text(said: str) -> Wire:
    """A block of text."""
    return {"type": "text", "text": said}


def embedded(uri: str, mime: str, said: str) -> Wire:
    """A block with a resource in it."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": said}}


IMAGE_BLOCK: Final = {"type": "image", "data": IMAGE, "mimeType": "image/png"}

# What tools return.


@tool
async def test_simple_text(ctx: Any, arguments: Wire) -> Wire:
    return result(text("This is a simple text response for testing."))


@tool
async def test_image_content(ctx: Any, arguments: Wire) -> Wire:
    return result(IMAGE_BLOCK)


@tool
async def test_audio_content(ctx: Any, arguments: Wire) -> Wire:
    return result({"type": "audio", "data": SOUND, "mimeType": "audio/wav"})


@tool
async def test_embedded_resource(ctx: Any, arguments: Wire) -> Wire:
    return result(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content."))


@tool
async def test_multiple_content_types(ctx: Any, arguments: Wire) -> Wire:
    mixed = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return result(text("Multiple content types test:"), IMAGE_BLOCK, mixed)


@tool
async def test_error_handling(ctx: Any, arguments: Wire) -> Wire:
    return result(text("This tool intentionally returns an error for testing"), isError=True)


@tool
async def json_schema_2020_12_tool(ctx: Any, arguments: Wire) -> Wire:
    return result(text("json_schema_2020_12_tool"))


# What tools say while they run.


@tool
async def test_tool_with_progress(ctx: Any, arguments: Wire) -> Wire:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100, f"Completed step {done} of 100")
    return result(text(str((ctx.meta or {}).get("progress_token", 0))))


async def say(ctx: Any, said: str) -> None:
    """A message for the client's log, where this era and this request have one."""
    if ctx.protocol_version < "2026":
        params = LoggingMessageNotificationParams(level="info", data=said)
        await ctx.session.send_notification(
            LoggingMessageNotification(params=params), related_request_id=ctx.request_id
        )


@tool
async def test_tool_with_logging(ctx: Any, arguments: Wire) -> Wire:
    for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await say(ctx, said)
        await anyio.sleep(0.05)
    return result(text("Tool with logging executed successfully"))


@tool
async def test_logging_tool(ctx: Any, arguments: Wire) -> Wire:
    await say(ctx, "A message that nobody asked for")
    return result(text("Logged, where it was asked for"))


@tool
async def test_reconnection(ctx: Any, arguments: Wire) -> Wire:
    await say(ctx, "Before disconnect")
    await ctx.close_sse_stream()
    await anyio.sleep(0.2)
    await say(ctx, "After reconnect")
    return result(text("Reconnection test completed"))


@tool
async def test_trigger_tool_change(ctx: Any, arguments: Wire) -> Wire:
    await _tell_streams(ToolsListChanged())
    return result(text("tool list changed"))


@tool
async def test_trigger_prompt_change(ctx: Any, arguments: Wire) -> Wire:
    await _tell_streams(PromptsListChanged())
    return result(text("prompt list changed"))


async def _tell_streams(event: Any) -> None:
    for handler in list(LISTENING._open):  # the product's lists never change, so it has no way in
        await handler._bus.publish(event)


# What tools ask, while they wait, in the era of 2025.


@tool
async def test_sampling(ctx: Any, arguments: Wire) -> Wire:
    asked = SamplingMessage(role="user", content=TextContent(type="text", text=arguments["prompt"]))
    answer = await ctx.session.create_message([asked], max_tokens=100, related_request_id=ctx.request_id)
    return result(text(f"LLM response: {answer.content.text}"))


@tool
async def test_elicitation(ctx: Any, arguments: Wire) -> Wire:
    return await elicited(ctx, "User response", arguments["message"], {"response": {"type": "string"}})


@tool
async def test_elicitation_sep1034_defaults(ctx: Any, arguments: Wire) -> Wire:
    fields = {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
    return await elicited(ctx, "Elicitation completed", "Please provide user information", fields)


def titled(**titles: str) -> list[Wire]:
    """Values of an enumeration with what they are called."""
    return [{"const": const, "title": title} for const, title in titles.items()]


@tool
async def test_elicitation_sep1330_enums(ctx: Any, arguments: Wire) -> Wire:
    options = ["option1", "option2", "option3"]
    names = titled(value1="First Option", value2="Second Option", value3="Third Option")
    fields = {
        "untitledSingle": {"type": "string", "enum": options},
        "titledSingle": {"type": "string", "oneOf": names},
        "legacyEnum": {
            "type": "string",
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        },
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": options}},
        "titledMulti": {"type": "array", "items": {"anyOf": names}},
    }
    return await elicited(ctx, "Elicitation completed", "Please select options", fields)


async def elicited(ctx: Any, said: str, message: str, fields: Wire) -> Wire:
    """Ask the client's human, and say what they answered."""
    form = {"type": "object", "properties": fields}
    answer = await ctx.session.elicit_form(message, form, related_request_id=ctx.request_id)
    content = json.dumps(answer.content or {})
    return result(text(f"{said}: action={answer.action}, content={content}"))


# What calls need first, in the era of 2026.


def needed(state: str | None = None, **requests: Wire) -> Wire:
    """The answer to a call that needs input."""
    asked: Wire = {"resultType": "input_required", "inputRequests": requests}
    return asked if state is None else {**asked, "requestState": state}


def answers(ctx: Any) -> Mapping[str, Any]:
    """What the client sent with the call."""
    return cast(Mapping[str, Any], (ctx.params or {}).get("inputResponses") or {})


def state_of(ctx: Any) -> str | None:
    """The state that the client sent back, opened."""
    return cast("str | None", (ctx.params or {}).get("requestState"))


def to_ask(message: str, field: str = "name", kind: str = "string") -> Wire:
    """A question to the client's human."""
    form = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": form},
    }


def to_sample(asked: str) -> Wire:
    """A question to the client's model."""
    message = {"role": "user", "content": text(asked)}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}


ROOTS: Final = {"method": "roots/list"}


@tool
async def test_missing_capability(ctx: Any, arguments: Wire) -> Wire:
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs the client's sampling.",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return result(text("The client declares sampling."))


@tool
async def test_streaming_elicitation(ctx: Any, arguments: Wire) -> Wire:
    return result(text("asked")) if answers(ctx) else needed(user_name=to_ask("What is your name?"))


@tool
async def test_input_required_result_elicitation(ctx: Any, arguments: Wire) -> Wire:
    if "user_name" in answers(ctx):
        name = (answers(ctx)["user_name"].get("content") or {}).get("name", "stranger")
        return result(text(f"Hello, {name}!"))
    return needed(user_name=to_ask("What is your name?"))


@tool
async def test_input_required_result_sampling(ctx: Any, arguments: Wire) -> Wire:
    if "capital_question" in answers(ctx):
        return result(text(f"The model said: {answers(ctx)['capital_question']['content']['text']}"))
    return needed(capital_question=to_sample("What is the capital of France?"))


@tool
async def test_input_required_result_list_roots(ctx: Any, arguments: Wire) -> Wire:
    if "client_roots" in answers(ctx):
        return result(text(f"The client has {len(answers(ctx)['client_roots']['roots'])} roots."))
    return needed(client_roots=ROOTS)


@tool
async def test_input_required_result_request_state(ctx: Any, arguments: Wire) -> Wire:
    if "confirm" in answers(ctx) and state_of(ctx) == "asked":
        return result(text("state-ok: confirmed"))
    return needed("asked", confirm=to_ask("Please confirm", "ok", "boolean"))


@tool
async def test_input_required_result_multiple_inputs(ctx: Any, arguments: Wire) -> Wire:
    if {"user_name", "greeting", "client_roots"} <= answers(ctx).keys():
        return result(text("All inputs are here."))
    return needed(
        "asked",
        user_name=to_ask("What is your name?"),
        greeting=to_sample("Generate a greeting"),
        client_roots=ROOTS,
    )


@tool
async def test_input_required_result_multi_round(ctx: Any, arguments: Wire) -> Wire:
    given, state = answers(ctx), json.loads(state_of(ctx) or "{}")
    if state.get("round") == 1 and "step1" in given:
        name = given["step1"]["content"]["name"]
        color = to_ask("Step 2: What is your favorite color?", "color")
        return needed(json.dumps({"round": 2, "name": name}), step2=color)
    if state.get("round") == 2 and "step2" in given:
        return result(text(f"{state['name']} likes {given['step2']['content']['color']}."))
    return needed(json.dumps({"round": 1}), step1=to_ask("Step 1: What is your name?"))


@tool
async def test_input_required_result_tampered_state(ctx: Any, arguments: Wire) -> Wire:
    if state_of(ctx) is None:
        return needed("asked", confirm=to_ask("Please confirm", "ok", "boolean"))
    return result(text(f"state-ok: {state_of(ctx)}"))


@tool
async def test_input_required_result_capabilities(ctx: Any, arguments: Wire) -> Wire:
    declared, requests = ctx.session.client_capabilities, {}
    if declared is None or declared.sampling is not None:
        requests["sample"] = to_sample("Say hello")
    if declared is None or declared.elicitation is not None:
        requests["ask"] = to_ask("What is your name?")
    return needed("asked", **requests)


# Prompts.


def messages(*content: Wire) -> Wire:
    """A prompt's result."""
    said = [{"role": "user", "content": each} for each in content]
    return {"messages": said, "resultType": "complete"}


@prompt
async def test_simple_prompt(ctx: Any, arguments: Wire) -> Wire:
    return messages(text("This is a simple prompt for testing."))


@prompt
async def test_prompt_with_arguments(ctx: Any, arguments: Wire) -> Wire:
    arg1, arg2 = arguments["arg1"], arguments["arg2"]
    return messages(text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))


@prompt
async def test_prompt_with_embedded_resource(ctx: Any, arguments: Wire) -> Wire:
    content = embedded(arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
    return messages(content, text("Please process the embedded resource above."))


@prompt
async def test_prompt_with_image(ctx: Any, arguments: Wire) -> Wire:
    return messages(IMAGE_BLOCK, text("Please analyze the image above."))


@prompt
async def test_input_required_result_prompt(ctx: Any, arguments: Wire) -> Wire:
    if "user_context" in answers(ctx):
        said = (answers(ctx)["user_context"].get("content") or {}).get("context", "")
        return messages(text(f"Use the following context: {said}"))
    return needed(user_context=to_ask("What context should the prompt use?", "context"))


PROMPT_ARGUMENTS: Final = {
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
}

# Listings and resources.

TOOL_ARGUMENTS: Final = {"test_sampling": "prompt", "test_elicitation": "message"}
SCHEMA_2020_12: Final[Wire] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def input_schema(name: str) -> Wire:
    """A tool's arguments."""
    if name == "json_schema_2020_12_tool":
        return SCHEMA_2020_12
    argument = TOOL_ARGUMENTS.get(name)
    properties = {} if argument is None else {argument: {"type": "string"}}
    return {"type": "object", "properties": properties, "required": list(properties)}


STATIC: Final[dict[str, Wire]] = {
    "test://static-text": {
        "mimeType": "text/plain",
        "text": "This is the content of the static text resource.",
    },
    "test://static-binary": {"mimeType": "image/png", "blob": IMAGE},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched resource content"},
}
TEMPLATE: Final = "test://template/{id}/data"


def read(uri: str) -> Wire | None:
    """A resource of the suite; `None` for any other."""
    found = STATIC.get(uri)
    if found is None and (matched := UriTemplate.parse(TEMPLATE).match(uri)) is not None:
        id = str(matched["id"])
        data = {"id": id, "templateTest": True, "data": f"Data for ID: {id}"}
        found = {"mimeType": "application/json", "text": json.dumps(data)}
    if found is None:
        return None
    return {
        "contents": [{"uri": uri, **found}],
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }


assert base64.b64decode(IMAGE) and base64.b64decode(SOUND)
