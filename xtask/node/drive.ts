/**
 * Publishes what each line of standard input says, as a JavaScript expression, and answers with the message id or the
 * error.
 */
import { createInterface } from "node:readline";
import * as kit from "./notify.js";

const names = { ...kit, b64: (text: string) => new Uint8Array(Buffer.from(text, "base64")) };
const evaluate = (expression: string): kit.Notification =>
  new Function(...Object.keys(names), `return (${expression});`)(...Object.values(names));

const { AMQP_URL = "", EXCHANGE = "" } = process.env;
const publisher = new kit.Publisher(AMQP_URL, { exchange: EXCHANGE });
for await (const line of createInterface({ input: process.stdin })) {
  let answer: string;
  try {
    answer = `sent ${await publisher.publish(evaluate(JSON.parse(line)))}`;
  } catch (error) {
    answer = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
  console.log(answer.replaceAll("\n", " "));
}
await publisher.close();
