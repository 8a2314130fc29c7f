// The official SDKs for Node against a gateway; `test_node.py` starts it and runs this.
//
// Arguments: the URL of a gateway with the embedded model alone, and of one with a cloud. Ends non-zero at
// the first thing that is not as expected.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [edgeUrl, hybridUrl] = process.argv.slice(2);
const CARD = "4111 1111 1111 1111";
const ANSWER = "The cloud answers.";

const openai = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "sk-of-the-client", maxRetries: 0 });
const anthropic = (url) => new Anthropic({ baseURL: url, apiKey: "sk-of-the-client", maxRetries: 0 });
const say = (content) => [{ role: "user", content }];

const parameters = {
  type: "object",
  properties: { unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
  required: ["unit"],
  additionalProperties: false,
};

async function chatCompletions() {
  const asked = { model: "nano", messages: say("Name three fruits."), max_tokens: 24, temperature: 0 };
  const whole = await openai(edgeUrl).chat.completions.create(asked);
  let text = "";
  for await (const chunk of await openai(edgeUrl).chat.completions.create({ ...asked, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.equal(text, whole.choices[0].message.content);
  const cloud = await openai(hybridUrl).chat.completions.create(asked);
  assert.equal(cloud.choices[0].message.content, ANSWER);
}

async function responses() {
  const asked = { model: "nano", input: "Name three fruits.", max_output_tokens: 24, temperature: 0 };
  const whole = await openai(edgeUrl).responses.create(asked);
  const stream = openai(edgeUrl).responses.stream(asked);
  let text = "";
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") text += event.delta;
  }
  assert.equal(text, whole.output_text);
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
  const tools = [{ type: "function", name: "weather", parameters, strict: true }];
  const called = await openai(edgeUrl).responses.create({
    ...asked, tools, tool_choice: "required", parallel_tool_calls: false, max_output_tokens: 60,
  });
  const call = called.output.find((item) => item.type === "function_call");
  assert.ok(["celsius", "fahrenheit"].includes(JSON.parse(call.arguments).unit));
  await assert.rejects(
    openai(edgeUrl).responses.create({ ...asked, previous_response_id: "resp_1" }),
    (error) => error instanceof OpenAI.BadRequestError && error.code === "stored_state_not_served",
  );
}

async function messages() {
  const asked = { model: "nano", messages: say("Name three fruits."), max_tokens: 24, temperature: 0 };
  const whole = await anthropic(edgeUrl).messages.create(asked);
  const stream = anthropic(edgeUrl).messages.stream(asked);
  let text = "";
  stream.on("text", (piece) => { text += piece; });
  const final = await stream.finalMessage();
  assert.equal(text, whole.content[0].text);
  assert.deepEqual(final.content[0].text, whole.content[0].text);
  assert.equal(final.usage.input_tokens, whole.usage.input_tokens);
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  const tools = [{ name: "weather", input_schema: parameters, strict: true }];
  const used = await anthropic(edgeUrl).messages.create({
    ...asked, tools, tool_choice: { type: "any" }, max_tokens: 60,
  });
  assert.equal(used.stop_reason, "tool_use");
  const counted = await anthropic(edgeUrl).messages.countTokens({ model: "nano", messages: asked.messages });
  assert.equal(counted.input_tokens, whole.usage.input_tokens);
  await assert.rejects(
    anthropic(edgeUrl).messages.create({ ...asked, messages: [] }),
    (error) => error instanceof Anthropic.BadRequestError && error.error.error.type === "invalid_request_error",
  );
}

async function cards() {
  const text = `Charge my card ${CARD}, please.`;
  const openAi = await openai(hybridUrl).responses.create({ model: "m", input: text, max_output_tokens: 8 }).withResponse();
  assert.equal(openAi.response.headers.get("x-sluice-route"), "edge");
  const asked = { model: "m", messages: say(text), max_tokens: 8 };
  const theirs = await anthropic(hybridUrl).messages.create(asked).withResponse();
  assert.equal(theirs.response.headers.get("x-sluice-route"), "edge");
}

for (const test of [chatCompletions, responses, messages, cards]) {
  await test();
  console.log(`${test.name}: ok`);
}
