/**
 * Publishes what each line of standard input says, as a JavaScript expression, and answers with the message id or the
 * error. `asking(notification, wait)` asks for receipts, which follow the message id.
 */
import { createInterface } from "node:readline";
import * as kit from "./notify.js";

type Asking = [kit.Notification, kit.Wait];
const asking = (notification: kit.Notification, wait: kit.Wait): Asking => [notification, wait];
const names = { ...kit, asking, b64: (text: string) => new Uint8Array(Buffer.from(text, "base64")) };
const evaluate = (expression: string): kit.Notification | Asking =>
  new Function(...Object.keys(names), `return (${expression});`)(...Object.values(names));

const { AMQP_URL = "", EXCHANGE = "" } = process.env;
const publisher = new kit.Publisher(AMQP_URL, { exchange: EXCHANGE });
for await (const line of createInterface({ input: process.stdin })) {
  let answer: string;
  try {
    const said = evaluate(JSON.parse(line));
    if (Array.isArray(said)) {
      const { messageId, receipts } = await publisher.publishWithReceipts(...said);
      answer = `sent ${messageId} ${JSON.stringify(receipts)}`;
    } else {
      answer = `sent ${await publisher.publish(said)}`;
    }
  } catch (error) {
    answer = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
  console.log(answer.replaceAll("\n", " "));
}
await publisher.close();
