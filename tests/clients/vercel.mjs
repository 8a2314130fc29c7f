// The Vercel AI SDK against a gateway; `test_node.py` starts it and runs this.
//
// Arguments: the URL of a gateway with the embedded model alone, and of one with a cloud. Ends non-zero at
// the first thing that is not as expected.

import assert from "node:assert/strict";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [edgeUrl, hybridUrl] = process.argv.slice(2);
const CARD = "4111 1111 1111 1111";
const ANSWER = "The cloud answers.";
const apiKey = "sk-of-the-client";

/** Each way that the SDK has to ask. */
function models(url) {
  const baseURL = `${url}/v1`;
  const openai = createOpenAI({ baseURL, apiKey });
  const more = { includeUsage: true, supportsStructuredOutputs: true };
  const compatible = createOpenAICompatible({ name: "sluice", baseURL, apiKey, ...more });
  return [openai("auto"), openai.chat("auto"), compatible("auto"), createAnthropic({ baseURL, apiKey })("auto")];
}

const asked = { prompt: "Name three fruits.", maxOutputTokens: 32, maxRetries: 0 };
const weather = tool({
  description: "Weather of a city",
  inputSchema: z.object({ city: z.string().max(12), unit: z.enum(["celsius", "fahrenheit"]) }),
  execute: async ({ city }) => `Sunny in ${city}`,
});

async function answers() {
  for (const model of models(edgeUrl)) {
    const whole = await generateText({ model, ...asked });
    assert.ok(whole.text.trim());
    assert.ok(whole.usage.outputTokens > 0);
  }
  for (const model of models(hybridUrl)) {
    assert.equal((await generateText({ model, ...asked })).text, ANSWER);
  }
}

async function streams() {
  for (const [url, expected] of [[edgeUrl, null], [hybridUrl, ANSWER]]) {
    for (const model of models(url)) {
      const stream = streamText({ model, ...asked });
      let pieces = 0;
      let text = "";
      for await (const piece of stream.textStream) {
        pieces += 1;
        text += piece;
      }
      assert.ok(pieces > 1 && text.trim(), `${pieces} pieces`);
      if (expected) assert.equal(text, expected);
      assert.ok((await stream.usage).outputTokens > 0);
    }
  }
}

async function tools() {
  const question = { prompt: "What is the weather in Paris?", tools: { weather }, maxRetries: 0 };
  for (const model of models(edgeUrl)) {
    const called = await generateText({ model, ...question, toolChoice: "required", maxOutputTokens: 120 });
    assert.ok(["celsius", "fahrenheit"].includes(called.toolCalls[0].input.unit));
  }
  for (const model of models(hybridUrl)) {
    const { text, steps } = await generateText({ model, ...question, stopWhen: stepCountIs(2) });
    assert.deepEqual(steps[0].toolCalls[0].input, { city: "Paris", unit: "celsius" });
    assert.equal(text, ANSWER);
  }
}

async function forms() {
  const schema = z.object({ minutes: z.number().int().min(1).max(600) });
  const question = { prompt: "How long does a soup take?", maxOutputTokens: 60, maxRetries: 0 };
  for (const [url, minutes] of [[edgeUrl, null], [hybridUrl, 40]]) {
    for (const model of models(url).slice(0, 3)) {
      const { output } = await generateText({ model, ...question, output: Output.object({ schema }) });
      assert.ok(Number.isInteger(output.minutes));
      if (minutes) assert.equal(output.minutes, minutes);
    }
  }
}

async function errors() {
  for (const model of models(edgeUrl)) {
    await assert.rejects(
      generateText({ model, prompt: "word ".repeat(20_000), maxRetries: 0 }),
      (error) => APICallError.isInstance(error) && error.statusCode === 400 && !error.isRetryable,
    );
  }
}

async function cards() {
  for (const model of models(hybridUrl)) {
    const { response, text } = await generateText({ model, ...asked, prompt: `Charge my card ${CARD}, please.` });
    assert.equal(response.headers["x-sluice-route"], "edge");
    assert.ok(text.trim());
  }
}

for (const test of [answers, streams, tools, forms, errors, cards]) {
  await test();
  console.log(`${test.name}: ok`);
}
