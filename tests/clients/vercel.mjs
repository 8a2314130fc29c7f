// The Vercel AI SDK against every side; `test_node.py` runs this.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, streamText, tool } from "ai";
import { z } from "zod";
import { Dish, errorOf, given, run } from "./matrix.mjs";

const apiKey = given.clientKey;
// By default the SDK names items of earlier responses instead of sending them: nothing is stored here.
const providerOptions = { openai: { store: false } };
const asked = { maxOutputTokens: 48, maxRetries: 0, providerOptions };
const tools = {
  // Without `execute` the call comes back to the caller.
  get_weather: tool({
    description: given.weatherSaid,
    inputSchema: z.object({ city: z.string().max(12), unit: z.enum(["celsius", "fahrenheit"]) }),
  }),
};

/** Each way that the SDK has to ask, by the model that it makes. */
const models = {
  "OpenAI's responses": (baseURL, name) => createOpenAI({ baseURL, apiKey })(name),
  "OpenAI's chat completions": (baseURL, name) => createOpenAI({ baseURL, apiKey }).chat(name),
  "OpenAI-compatible": (baseURL, name) => {
    const more = { includeUsage: true, supportsStructuredOutputs: true };
    return createOpenAICompatible({ name: "sluice", baseURL, apiKey, ...more })(name);
  },
  "Anthropic's messages": (baseURL, name) => createAnthropic({ baseURL, apiKey })(name),
};

function way(provider) {
  const model = (url, name = "auto") => models[provider](`${url}/v1`, name);
  const said = async (reply, pieces) => {
    const { inputTokens, outputTokens } = await reply.usage;
    const calls = (await reply.toolCalls).map(({ toolName, input }) => ({ name: toolName, input }));
    return { pieces: pieces ?? [await reply.text], tokens: [inputTokens, outputTokens], calls, turn: reply };
  };
  async function stream(more) {
    const reply = streamText({ ...asked, ...more, onError: () => {} });
    const pieces = [];
    for await (const part of reply.fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "text-delta") pieces.push(part.text);
    }
    return said(reply, pieces);
  }
  const ask = async (more) => said(await generateText({ ...asked, ...more }));
  return {
    name: `Vercel AI SDK, ${provider}`,
    chat: (url, prompt) => ask({ model: model(url), prompt }),
    stream: (url, prompt) => stream({ model: model(url), prompt }),
    call(url, messages, must, streamed) {
      const one = { model: model(url), messages, tools, maxOutputTokens: 120 };
      const more = { ...one, ...(must && { toolChoice: "required" }) };
      return streamed ? stream(more) : ask(more);
    },
    async giveBack(url, question, { turn }, value) {
      // Nothing here keeps a model to one call.
      const results = turn.toolCalls.map(({ toolCallId, toolName }) => (
        { type: "tool-result", toolCallId, toolName, output: { type: "text", value } }
      ));
      const messages = [...question, ...turn.response.messages, { role: "tool", content: results }];
      return ask({ model: model(url), messages, tools, toolChoice: "none" });
    },
    async form(url, prompt) {
      const output = Output.object({ schema: Dish });
      return (await generateText({ ...asked, model: model(url), prompt, output })).output;
    },
    error(url, prompt, name, streamed) {
      const more = { model: model(url, name), prompt };
      return errorOf(() => (streamed ? stream(more) : ask(more)), (error) => {
        if (!APICallError.isInstance(error) || error.isRetryable) throw error;
        return { status: error.statusCode, text: error.message };
      });
    },
  };
}

await run(Object.keys(models).map(way));
