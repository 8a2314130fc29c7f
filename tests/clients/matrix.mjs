// The cells of the table in README.md for clients that run on Node: the cases of `matrix.py`.
//
// A way to ask is an object: its name, and for each case what it does in the client's own words. `test_node.py`
// gives the sides' addresses and what the suites have in common as one argument, and looks afterwards at what has
// reached the clouds. Each cell that is as expected is a line; the first that is not ends the run.

import assert from "node:assert/strict";
import { z } from "zod";

export const given = JSON.parse(process.argv[2]);
export const Dish = z.object({ kind: z.enum(["soup", "cake", "salad"]), vegan: z.boolean() }).strict();

const cases = {
  async chat(way, url, isCloud) {
    checkSaid(await way.chat(url, given.ordinary), isCloud);
    if (isCloud) checkCard(await way.chat(url, given.regulated));
  },

  async stream(way, url, isCloud) {
    const said = await way.stream(url, given.ordinary);
    checkSaid(said, isCloud);
    assert.ok(said.pieces.length > 1, "the reply came in one piece");
    if (isCloud) checkCard(await way.stream(url, given.regulated));
  },

  async tools(way, url, isCloud) {
    const called = await way.call(url, given.question, !isCloud, false);
    const streamed = await way.call(url, given.question, !isCloud, true);
    for (const { calls } of [called, streamed]) {
      assert.equal(calls[0].name, "get_weather");
      assert.deepEqual(Object.keys(calls[0].input).sort(), ["city", "unit"]);
      if (isCloud) assert.deepEqual(calls[0].input, given.toolInput);
    }
    const answer = await way.giveBack(url, given.question, called, given.result);
    if (isCloud) assert.equal(answer.pieces.join(""), given.answer);
  },

  async form(way, url, isCloud) {
    const form = Dish.parse(await way.form(url, "Which dish do you recommend?"));
    if (isCloud) assert.deepEqual(form, given.formInput);
  },

  async errors(way, url, isCloud) {
    for (const streamed of [false, true]) {
      const [text, model] = isCloud ? [given.ordinary, given.noSuchModel] : [given.tooLong, "auto"];
      const error = await way.error(url, text, model, streamed);
      assert.equal(error.status, isCloud ? 404 : 400, error.text);
      assert.ok(error.text.includes(isCloud ? given.noSuchModelSaid : "context"), error.text);
    }
  },
};

function checkSaid({ pieces, tokens }, isCloud) {
  const text = pieces.join("");
  assert.ok(text.trim());
  if (isCloud) {
    assert.equal(text, given.answer);
    assert.deepEqual(tokens, [7, 3]);
  } else {
    assert.ok(Math.min(...tokens) > 0, tokens.join());
  }
}

function checkCard({ pieces }) {
  const text = pieces.join("");
  assert.ok(text.trim() && text !== given.answer, text);
}

/** The error of a client, by what it tells of one. */
export async function errorOf(ask, told) {
  try {
    await ask();
  } catch (error) {
    return told(error);
  }
  throw new Error("expected an error");
}

/** Every case of every way against every side. */
export async function run(ways) {
  for (const way of ways) {
    for (const [name, check] of Object.entries(cases)) {
      for (const [side, url] of Object.entries(given.sides)) {
        const begin = performance.now();
        try {
          await check(way, url, side !== "edge");
        } catch (error) {
          throw new Error(`${way.name}: ${name}: ${side}`, { cause: error });
        }
        console.log([way.name, name, side, Math.round(performance.now() - begin)].join("\t"));
      }
    }
  }
}
