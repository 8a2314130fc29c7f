// The official SDKs for Node against every side; `test_node.py` runs this.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { Dish, errorOf, given, run } from "./matrix.mjs";

const options = { apiKey: given.clientKey, maxRetries: 0 };
const openai = (url) => new OpenAI({ baseURL: `${url}/v1`, ...options });
const anthropic = (url) => new Anthropic({ baseURL: url, ...options });
const say = (content) => [{ role: "user", content }];
const told = ({ status, message }) => ({ status, text: message });
const description = given.weatherSaid;

function chatCompletions() {
  const asked = { model: "auto", max_tokens: 48, temperature: 0 };
  const tools = [{ type: "function", function: { name: "get_weather", description, parameters: given.weatherSchema } }];
  const said = ({ choices: [{ message }], usage }, pieces) => ({
    pieces: pieces ?? [message.content ?? ""],
    tokens: [usage.prompt_tokens, usage.completion_tokens],
    calls: (message.tool_calls ?? []).map(({ function: f }) => ({ name: f.name, input: JSON.parse(f.arguments) })),
    turn: message,
  });
  const ask = (url, messages, more) => openai(url).chat.completions.create({ ...asked, messages, ...more });
  async function stream(url, messages, more) {
    const usage = { stream_options: { include_usage: true } };
    const events = openai(url).chat.completions.stream({ ...asked, ...usage, messages, ...more });
    const pieces = [];
    events.on("content", (piece) => pieces.push(piece));
    return said(await events.finalChatCompletion(), pieces);
  }
  return {
    name: "OpenAI for Node, chat completions",
    chat: async (url, text) => said(await ask(url, say(text))),
    stream: (url, text) => stream(url, say(text)),
    async call(url, question, must, streamed) {
      const more = { tools, max_tokens: 120, ...(must && { tool_choice: "required", parallel_tool_calls: false }) };
      return streamed ? stream(url, question, more) : said(await ask(url, question, more));
    },
    async giveBack(url, question, { turn }, content) {
      const result = { role: "tool", tool_call_id: turn.tool_calls[0].id, content };
      return said(await ask(url, [...question, turn, result], { tools, tool_choice: "none" }));
    },
    async form(url, text) {
      const response_format = zodResponseFormat(Dish, "dish");
      const reply = await openai(url).chat.completions.parse({ ...asked, messages: say(text), response_format });
      return reply.choices[0].message.parsed;
    },
    error: (url, text, model, stream) => errorOf(() => ask(url, say(text), { model, stream }), told),
  };
}

function responses() {
  const asked = { model: "auto", max_output_tokens: 48, temperature: 0 };
  const tools = [{ type: "function", name: "get_weather", description, strict: true, parameters: given.weatherSchema }];
  const calls = (output) => output.filter((item) => item.type === "function_call");
  const said = ({ output, output_text, usage }, pieces) => ({
    pieces: pieces ?? [output_text],
    tokens: [usage.input_tokens, usage.output_tokens],
    calls: calls(output).map((call) => ({ name: call.name, input: JSON.parse(call.arguments) })),
    turn: output,
  });
  const ask = (url, input, more) => openai(url).responses.create({ ...asked, input, ...more });
  async function stream(url, input, more) {
    const events = openai(url).responses.stream({ ...asked, input, ...more });
    const pieces = [];
    events.on("response.output_text.delta", ({ delta }) => pieces.push(delta));
    return said(await events.finalResponse(), pieces);
  }
  return {
    name: "OpenAI for Node, responses",
    chat: async (url, text) => said(await ask(url, text)),
    stream,
    async call(url, question, must, streamed) {
      const one = { tools, max_output_tokens: 120, parallel_tool_calls: false };
      const more = { ...one, ...(must && { tool_choice: "required" }) };
      return streamed ? stream(url, question, more) : said(await ask(url, question, more));
    },
    async giveBack(url, question, { turn }, output) {
      const result = { type: "function_call_output", call_id: calls(turn)[0].call_id, output };
      return said(await ask(url, [...question, ...turn, result], { tools, tool_choice: "none" }));
    },
    async form(url, input) {
      const text = { format: zodTextFormat(Dish, "dish") };
      return (await openai(url).responses.parse({ ...asked, input, text })).output_parsed;
    },
    error: (url, text, model, stream) => errorOf(() => ask(url, text, { model, stream }), told),
  };
}

function messages() {
  const asked = { model: "auto", max_tokens: 48 };
  const tools = [{ name: "get_weather", description, input_schema: given.weatherSchema }];
  const uses = (content) => content.filter((block) => block.type === "tool_use");
  const said = ({ content, usage }, pieces) => ({
    pieces: pieces ?? content.filter((block) => block.type === "text").map((block) => block.text),
    tokens: [usage.input_tokens, usage.output_tokens],
    calls: uses(content),
    turn: content,
  });
  const ask = (url, messages, more) => anthropic(url).messages.create({ ...asked, messages, ...more });
  async function stream(url, messages, more) {
    const events = anthropic(url).messages.stream({ ...asked, messages, ...more });
    const pieces = [];
    events.on("text", (piece) => pieces.push(piece));
    return said(await events.finalMessage(), pieces);
  }
  return {
    name: "Anthropic for Node",
    chat: async (url, text) => said(await ask(url, say(text))),
    stream: (url, text) => stream(url, say(text)),
    async call(url, question, must, streamed) {
      const tool_choice = { type: "any", disable_parallel_tool_use: true };
      const more = { tools, max_tokens: 120, ...(must && { tool_choice }) };
      return streamed ? stream(url, question, more) : said(await ask(url, question, more));
    },
    async giveBack(url, question, { turn }, content) {
      const result = { type: "tool_result", tool_use_id: uses(turn)[0].id, content };
      const turns = [{ role: "assistant", content: turn }, { role: "user", content: [result] }];
      return said(await ask(url, [...question, ...turns], { tools, tool_choice: { type: "none" } }));
    },
    async form(url, text) {
      const output_config = { format: zodOutputFormat(Dish) };
      return (await anthropic(url).messages.parse({ ...asked, messages: say(text), output_config })).parsed_output;
    },
    error: (url, text, model, stream) => errorOf(() => ask(url, say(text), { model, stream }), told),
  };
}

/** What the cells do not show: refusals of the gateway's own, and counted tokens. */
async function besides() {
  const { edge } = given.sides;
  const stored = { model: "auto", input: "Go on.", previous_response_id: "resp_1" };
  await assert.rejects(
    openai(edge).responses.create(stored),
    (error) => error instanceof OpenAI.BadRequestError && error.code === "stored_state_not_served",
  );
  await assert.rejects(
    anthropic(edge).messages.create({ model: "auto", max_tokens: 4, messages: [] }),
    (error) => error instanceof Anthropic.BadRequestError && error.error.error.type === "invalid_request_error",
  );
  const asked = { model: "auto", messages: say(given.ordinary) };
  const { input_tokens } = await anthropic(edge).messages.countTokens(asked);
  const reply = await anthropic(edge).messages.create({ ...asked, max_tokens: 2 });
  assert.equal(input_tokens, reply.usage.input_tokens);
}

await run([chatCompletions(), responses(), messages()]);
await besides();
