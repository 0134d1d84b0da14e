/**
 * Publishes notifications to a lobby's players, with amqplib. A file to copy: npm install amqplib@2, Node.js from 18.
 *
 *     import { Publisher, broadcast, toUser } from "./notify.js";
 *
 *     const publisher = new Publisher("amqp://guest:guest@127.0.0.1:5672/%2f");
 *     await publisher.publish(toUser(42, { command: "notice", style: "info", text: "Your friend came online" }));
 *     await publisher.publish(broadcast({ command: "notice", style: "info", text: "Restart" }, { expires: 60 }));
 *     const { receipts } = await publisher.publishWithReceipts(toUser(42, { command: "notice", text: "hi" }));
 *     await publisher.close();
 *
 * What a lobby would answer with silence is an `InvalidNotification` before anything is sent. `publish` resolves when
 * the broker has confirmed, and rejects with `Unroutable` where no lobby is bound. The AMQP *property* user-id (the
 * broker's login name) is another thing than the header, and is never set.
 */
import { randomBytes } from "node:crypto";
import { connect, type ChannelModel, type ConfirmChannel, type Message } from "amqplib";

export const EXCHANGE = "faf-lobby";
export const ROUTING_KEY = "request.client.notify";
/** A lobby's default: 4 MiB and 64 KiB. */
export const MAX_BODY_BYTES = 4_259_840;
const MAX_HEADERS_BYTES = 64 * 1024;
const RECEIPT_HEADER = "x-lobby-receipt";
/** Receipts that may wait in the queue for them. */
const MAX_RECEIPTS = 100_000;
/** In any spelling: lobbies would pass over `User-Id`, and what is meant for one player would reach everyone. */
const RESERVED = new Map([
  ["userid", "address a player with toUser(…)"],
  ["channel", "address a channel with toChannel(…)"],
  ["traceparent", "use the option traceparent"],
  ["xlobbyreceipt", "use publishWithReceipts(…)"],
  ["cc", "the broker would route copies by it"],
  ["bcc", "the broker would route copies by it"],
  ["xlobbyundecodableheaders", "lobbies set it; choose another"],
]);
/** The broker's: 49.7 days. */
const MAX_EXPIRY_MS = 2 ** 32 - 1;
const MAX_TIMESTAMP = 253_402_300_799;
const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;
const LONE_SURROGATE = /\p{Surrogate}/u;
const MADE_HERE = Symbol("made here");

/** Nothing was sent: this notification would not reach whom it is meant for. The text says what to change. */
export class InvalidNotification extends TypeError {
  override name = "InvalidNotification";
}

/** The broker did not confirm the message. */
export class NotPublished extends Error {
  override name = "NotPublished";
}

/**
 * Nobody heard it: no lobby is bound to the exchange, or the exchange does not exist. Publishing again is of no use
 * before a lobby has started.
 */
export class Unroutable extends NotPublished {
  override name = "Unroutable";
}

/** The broker refused the message. Publish the same notification again, later. */
export class Nacked extends NotPublished {
  override name = "Nacked";
}

/**
 * No answer: the message may or may not have been taken. Publishing the same notification again may duplicate it, with
 * the same message id.
 */
export class Unconfirmed extends NotPublished {
  override name = "Unconfirmed";
}

export interface Options {
  /** Seconds in the broker's queue, until it is dropped. Unless given: for ever. */
  expires?: number;
  /** 0 to 255. */
  priority?: number;
  /** At most 255 bytes; a UUID of version 7 unless given. */
  messageId?: string;
  /** At most 255 bytes. */
  correlationId?: string;
  /** The publishing application, at most 255 bytes. */
  appId?: string;
  /** Seconds (not milliseconds) since 1970; now unless given. */
  timestamp?: number;
  /** The W3C trace context. */
  traceparent?: string;
  /** Your own headers, which lobbies pass over. Numbers are integers. */
  headers?: Record<string, string | number | boolean>;
}

const OPTIONS = ["expires", "priority", "messageId", "correlationId", "appId", "timestamp", "traceparent", "headers"];

/** Which receipts to ask for, and how long to wait for them. */
export interface Wait {
  /** "written-only" (unless given): the lobbies where somebody is addressed; "all": every lobby. */
  scope?: "written-only" | "all";
  /** So many are enough. Unless given: the first for one user with "written-only", else all that come in time. */
  answers?: number;
  /** Seconds from the broker's confirm, 0 to 3600; 2 unless given. */
  wait?: number;
}

/** What became of a message on one lobby; see docs/receipts.md. */
export interface Receipt {
  instance: string;
  message_id: string | null;
  /** "written", "not_connected", "dropped", "overflowed", "disconnected", or a word of a later lobby. */
  outcome: string;
  reason?: string;
  sessions_matched: number;
  sessions_written: number;
  sessions_overflowed: number;
  micros: number;
}

/** A body as written, which players get byte for byte: one UTF-8 JSON object. */
export class RawJson {
  readonly text: string | Uint8Array;

  constructor(text: string | Uint8Array) {
    if (typeof text !== "string" && !(text instanceof Uint8Array)) {
      throw new InvalidNotification(`raw JSON is ${shown(text)}; give a string or bytes`);
    }
    this.text = text;
  }
}

/** A checked message, made by `toUser`, `toChannel` or `broadcast` and by nothing else. */
export class Notification {
  /** @internal */
  constructor(
    madeHere: symbol,
    readonly headers: Readonly<Record<string, unknown>>,
    readonly body: Buffer,
    readonly properties: Readonly<Record<string, string | number>> & { readonly messageId: string },
  ) {
    if (madeHere !== MADE_HERE) {
      throw new InvalidNotification("make a notification with toUser(…), toChannel(…) or broadcast(…)");
    }
    Object.freeze(this);
  }
}

/** To every session of one player. Beyond 2^53 give a bigint: a number has lost digits there. */
export function toUser(userId: number | bigint, body: object, options?: Options): Notification {
  // Typed, so that amqplib does not choose by the value.
  return notification({ "user-id": { "!": "int64", value: checkedUserId(userId) } }, body, options);
}

/** To one channel. Reserved: today's lobbies acknowledge it and send it to nobody. */
export function toChannel(name: string, body: object, options?: Options): Notification {
  return notification({ channel: checkedText("channel", name) }, body, options);
}

/** To every player who is logged in. */
export function broadcast(body: object, options?: Options): Notification {
  return notification({}, body, options);
}

function notification(headers: Record<string, unknown>, body: unknown, options: Options = {}): Notification {
  if (typeof options !== "object" || options === null) {
    throw new InvalidNotification(`options are ${shown(options)}; give an object`);
  }
  const unknown = Object.keys(options).filter((name) => !OPTIONS.includes(name));
  if (unknown.length > 0) {
    throw new InvalidNotification(`there is no option ${unknown.join(", ")}; a player is addressed by toUser(…)`);
  }
  const { expires, priority, traceparent } = options;
  const properties: Record<string, string | number> & { messageId: string } = {
    contentType: "application/json",
    contentEncoding: "utf-8",
    deliveryMode: 2,
    messageId: shortText("messageId", options.messageId ?? uuid7()),
    timestamp: integer("timestamp", options.timestamp ?? Math.floor(Date.now() / 1000), MAX_TIMESTAMP),
  };
  if (expires !== undefined) properties.expiration = expiration(expires);
  if (priority !== undefined) properties.priority = integer("priority", priority, 255);
  if (options.correlationId !== undefined) {
    properties.correlationId = shortText("correlationId", options.correlationId);
  }
  if (options.appId !== undefined) properties.appId = shortText("appId", options.appId);
  if (traceparent !== undefined) {
    if (typeof traceparent !== "string" || !TRACEPARENT.test(traceparent)) {
      throw new InvalidNotification(`traceparent is ${shown(traceparent)}; expected 00-<32 hex>-<16 hex>-<2 hex>`);
    }
    headers.traceparent = traceparent;
  }
  if (options.headers !== undefined) Object.assign(headers, checkedHeaders(options.headers));
  return new Notification(MADE_HERE, Object.freeze(headers), checkedBody(body), Object.freeze(properties));
}

function checkedUserId(value: unknown): bigint {
  if (value === undefined || value === null) {
    throw new InvalidNotification(`user id is ${shown(value)}, which reaches everyone; mean it with broadcast(…)`);
  }
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new InvalidNotification(`user id is ${shown(value)}, beyond 2^53, where digits are lost; give a bigint`);
  }
  if (typeof value !== "bigint" && !Number.isInteger(value)) {
    throw new InvalidNotification(`user id is ${shown(value)}; give an integer, as number or bigint`);
  }
  const id = BigInt(value as number | bigint);
  if (BigInt.asIntN(64, id) !== id) {
    throw new InvalidNotification(`user id is ${shown(value)}; give -2^63 to 2^63-1`);
  }
  return id;
}

function checkedHeaders(headers: unknown): Record<string, unknown> {
  if (typeof headers !== "object" || headers === null || Array.isArray(headers) || headers instanceof Map) {
    throw new InvalidNotification(`headers is ${shown(headers)}; give an object`);
  }
  let size = 0;
  const checked: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(headers)) {
    const length = Buffer.byteLength(checkedText("header name", name));
    if (length < 1 || length > 255) throw new InvalidNotification(`header name of ${length} bytes; give 1 to 255`);
    const instead = RESERVED.get(name.toLowerCase().replace(/[^a-z0-9]/g, ""));
    if (instead) throw new InvalidNotification(`header ${shown(name)} means something; ${instead}`);
    if (typeof value === "string") size += Buffer.byteLength(checkedText(`header ${name}`, value));
    else if (typeof value !== "boolean" && !Number.isSafeInteger(value)) {
      throw new InvalidNotification(`header ${name} is ${shown(value)}; give a string, an integer or a boolean`);
    }
    size += length + 10;
    checked[name] = value;
  }
  if (size > MAX_HEADERS_BYTES) {
    throw new InvalidNotification(`headers are ${size} bytes, limit ${MAX_HEADERS_BYTES}; put it into the body`);
  }
  return checked;
}

function checkedBody(body: unknown): Buffer {
  let bytes: Buffer;
  if (body instanceof RawJson) {
    bytes = typeof body.text === "string" ? Buffer.from(checkedText("body", body.text)) : Buffer.from(body.text);
  } else if (typeof body === "object" && body !== null && !Array.isArray(body)) {
    let text: unknown;
    try {
      text = JSON.stringify(body, refuseWhatJsonHasNot);
    } catch (error) {
      if (error instanceof InvalidNotification) throw error;
      throw new InvalidNotification(`body cannot be written as JSON: ${(error as Error).message}`);
    }
    if (typeof text !== "string" || !text.startsWith("{")) {
      throw new InvalidNotification(`body becomes ${shown(text)}; give an object with the message's fields`);
    }
    bytes = Buffer.from(text);
  } else {
    throw new InvalidNotification(`body is ${shown(body)}; give an object, or new RawJson(…) for text that is JSON`);
  }
  if (bytes.length > MAX_BODY_BYTES) {
    throw new InvalidNotification(`body is ${bytes.length} bytes, limit ${MAX_BODY_BYTES}; send a reference to it`);
  }
  return body instanceof RawJson ? checkedJson(bytes) : bytes;
}

/** JSON.stringify would write null for these, leave them out, or write {}. */
function refuseWhatJsonHasNot(this: unknown, key: string, value: unknown): unknown {
  const wrong =
    (typeof value === "number" && !Number.isFinite(value)) ||
    typeof value === "bigint" ||
    typeof value === "function" ||
    typeof value === "symbol" ||
    (value === undefined && Array.isArray(this)) ||
    value instanceof Map ||
    value instanceof Set;
  if (wrong) throw new InvalidNotification(`body holds ${shown(value)} at ${shown(key)}, which JSON cannot say`);
  return value;
}

function checkedJson(bytes: Buffer): Buffer {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes); // without the BOM
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new InvalidNotification("body is JSON, but not an object; wrap it in one");
    }
    return Buffer.from(text.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, ""));
  } catch (error) {
    if (error instanceof InvalidNotification) throw error;
    throw new InvalidNotification(`body is not UTF-8 JSON: ${(error as Error).message}`);
  }
}

function checkedText(what: string, text: unknown): string {
  if (typeof text !== "string") throw new InvalidNotification(`${what} is ${shown(text)}; give a string`);
  if (LONE_SURROGATE.test(text)) throw new InvalidNotification(`${what} holds half a character (a lone surrogate)`);
  return text;
}

function shortText(what: string, text: unknown): string {
  const checked = checkedText(what, text);
  if (Buffer.byteLength(checked) > 255) throw new InvalidNotification(`${what} is longer than 255 bytes; shorten it`);
  return checked;
}

function integer(what: string, value: unknown, most: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > most) {
    throw new InvalidNotification(`${what} is ${shown(value)}; give an integer from 0 to ${most}`);
  }
  return value;
}

function expiration(seconds: unknown): string {
  const milliseconds = typeof seconds === "number" ? Math.ceil(seconds * 1000) : Number.NaN;
  if (!(milliseconds >= 1 && milliseconds <= MAX_EXPIRY_MS)) {
    throw new InvalidNotification(`expires is ${shown(seconds)}; give seconds, more than 0 and at most 4294967.295`);
  }
  return String(milliseconds);
}

function uuid7(): string {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(Date.now(), 0, 6);
  bytes[6] = 0x70 | (bytes[6]! & 0x0f);
  bytes[8] = 0x80 | (bytes[8]! & 0x3f);
  const hex = bytes.toString("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

function shown(value: unknown): string {
  const text = typeof value === "object" && value !== null ? Object.prototype.toString.call(value) : String(value);
  return `${typeof value} ${text.length <= 64 ? text : `${text.slice(0, 64)}…`}`;
}

function checkMade(notification: unknown): void {
  if (!(notification instanceof Notification)) {
    throw new InvalidNotification(`publish got ${shown(notification)}; give it what toUser(…) returns`);
  }
}

function receiptOf(body: Buffer): Receipt | undefined {
  try {
    const receipt: unknown = JSON.parse(body.toString());
    return typeof receipt === "object" && receipt !== null ? (receipt as Receipt) : undefined;
  } catch {
    return undefined;
  }
}

interface Open {
  connection: ChannelModel;
  channel: ConfirmChannel;
  /** What waits for its confirm, oldest first. */
  pending: Set<Pending>;
  /** The queue for receipts, once somebody has asked for some. */
  replyTo?: Promise<string>;
  /** Who waits for receipts, by message id. */
  asked: Map<string, Set<(receipt: Receipt) => void>>;
}

interface Pending {
  messageId: string;
  returned: boolean;
  settle: (error?: Error) => void;
}

async function within<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new NotPublished(`${what} took longer than ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A connection that publishes with confirms, made when it is needed and made again when it was lost. */
export class Publisher {
  readonly #url: string;
  readonly #exchange: string;
  readonly #timeoutMs: number;
  #open: Promise<Open> | undefined;

  /** `confirmTimeout`, in seconds, bounds each wait for the broker: to connect, and for a confirm. */
  constructor(url: string, { exchange = EXCHANGE, confirmTimeout = 10 } = {}) {
    this.#url = url;
    this.#exchange = exchange;
    this.#timeoutMs = confirmTimeout * 1000;
  }

  /**
   * Resolves to the message id once the broker has confirmed. Rejects with `Unroutable`, `Nacked` or `Unconfirmed`;
   * before anything is sent with `InvalidNotification`, or with amqplib's error where there is no broker.
   */
  async publish(notification: Notification): Promise<string> {
    checkMade(notification);
    await this.#send(await this.#connected(), notification, notification.headers, notification.properties);
    return notification.properties.messageId;
  }

  /**
   * As `publish`, and resolves to the lobbies' receipts too. A receipt may be lost: a missing one proves nothing, and is
   * no error. Rejects as `publish` does, and with `NotPublished` where no queue for receipts can be had.
   */
  async publishWithReceipts(
    notification: Notification,
    { scope = "written-only", answers, wait = 2 }: Wait = {},
  ): Promise<{ messageId: string; receipts: Receipt[] }> {
    checkMade(notification);
    if (scope !== "written-only" && scope !== "all") {
      throw new InvalidNotification(`scope is ${shown(scope)}; give "written-only" or "all"`);
    }
    if (typeof wait !== "number" || !(wait >= 0 && wait <= 3600)) {
      throw new InvalidNotification(`wait is ${shown(wait)}; give seconds, 0 to 3600`);
    }
    if (answers !== undefined && (!Number.isSafeInteger(answers) || answers < 1)) {
      throw new InvalidNotification(`answers is ${shown(answers)}; give an integer from 1 on`);
    }
    const first = scope === "written-only" && "user-id" in notification.headers;
    const enough = answers ?? (first ? 1 : Infinity);
    const open = await this.#connected();
    const replyTo = await this.#receiptQueue(open);
    const { messageId } = notification.properties;
    const receipts: Receipt[] = [];
    let complete = () => {};
    const came = (receipt: Receipt) => {
      if (receipts.length < enough) receipts.push(receipt);
      if (receipts.length >= enough) complete();
    };
    const waiting = open.asked.get(messageId) ?? new Set();
    open.asked.set(messageId, waiting.add(came));
    let timer: NodeJS.Timeout | undefined;
    try {
      const headers = { ...notification.headers, [RECEIPT_HEADER]: scope };
      await this.#send(open, notification, headers, { correlationId: messageId, ...notification.properties, replyTo });
      await new Promise<void>((resolve) => {
        complete = resolve;
        if (receipts.length >= enough) resolve();
        else timer = setTimeout(resolve, wait * 1000);
      });
    } finally {
      clearTimeout(timer);
      waiting.delete(came);
      if (waiting.size === 0) open.asked.delete(messageId);
    }
    return { messageId, receipts };
  }

  /** The queue for receipts, which goes with the channel. */
  async #receiptQueue(open: Open): Promise<string> {
    const { channel, asked } = open;
    const declare = async (): Promise<string> => {
      const options = { exclusive: true, autoDelete: true, arguments: { "x-max-length": MAX_RECEIPTS } };
      const { queue } = await channel.assertQueue("", options);
      const take = (message: Message | null) => {
        const receipt = message && receiptOf(message.content);
        for (const came of asked.get(receipt?.message_id ?? "") ?? []) came(receipt as Receipt);
      };
      await channel.consume(queue, take, { noAck: true });
      return queue;
    };
    open.replyTo ??= within(this.#timeoutMs, "declaring the queue for receipts", declare());
    try {
      return await open.replyTo;
    } catch (error) {
      delete open.replyTo;
      throw new NotPublished(`nothing was sent: no queue for receipts: ${(error as Error).message}`);
    }
  }

  async #send(
    { channel, pending }: Open,
    notification: Notification,
    headers: object,
    properties: Notification["properties"],
  ): Promise<void> {
    const { messageId } = properties;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(
        () => entry.settle(new Unconfirmed(`no confirm within ${this.#timeoutMs} ms`)),
        this.#timeoutMs,
      );
      const entry: Pending = {
        messageId,
        returned: false,
        settle: (error) => {
          clearTimeout(timer);
          pending.delete(entry);
          if (error) reject(error);
          else resolve();
        },
      };
      pending.add(entry);
      const options = { ...properties, headers: { ...headers }, mandatory: true };
      try {
        channel.publish(this.#exchange, ROUTING_KEY, notification.body, options, (refused: unknown) => {
          // Any other error is that of a channel that ends: what settles it follows, with the cause.
          if (refused instanceof Error && refused.message !== "message nacked") return;
          if (refused) entry.settle(new Nacked("the broker refused the message"));
          else if (entry.returned) entry.settle(this.#unroutable("no lobby is bound to it"));
          else entry.settle();
        });
      } catch (error) {
        entry.settle(new Unconfirmed(`the connection is lost: ${(error as Error).message}`));
      }
    });
  }

  /** Closes the connection, if there is one. */
  async close(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    if (open) await within(this.#timeoutMs, "closing the connection", (await open).connection.close());
  }

  #unroutable(why: string): Unroutable {
    return new Unroutable(`exchange '${this.#exchange}': ${why}; nobody heard it`);
  }

  #connected(): Promise<Open> {
    if (!this.#open) {
      const opening = this.#connect();
      this.#open = opening;
      opening.catch(() => this.#forget(opening));
    }
    return this.#open;
  }

  #forget(open: Promise<Open>): void {
    if (this.#open === open) this.#open = undefined;
  }

  async #connect(): Promise<Open> {
    const connection = await connect(this.#url, { timeout: this.#timeoutMs });
    connection.on("error", () => {}); // "close" follows
    const channel = await within(this.#timeoutMs, "opening a channel", connection.createConfirmChannel());
    const pending = new Set<Pending>();
    const mine = this.#open;
    let cause: (Error & { code?: number }) | undefined;
    channel.on("return", (message: Message) => {
      for (const entry of pending) {
        if (entry.messageId === message.properties.messageId && !entry.returned) {
          entry.returned = true;
          return;
        }
      }
    });
    channel.on("error", (error: Error) => {
      cause = error;
    });
    channel.on("close", () => {
      if (mine) this.#forget(mine);
      for (const entry of [...pending]) {
        const missing = cause?.code === 404;
        const lost = new Unconfirmed(`the connection is lost: ${cause?.message ?? "closed"}`);
        entry.settle(missing ? this.#unroutable("it does not exist, no lobby has been here") : lost);
      }
      connection.close().catch(() => {});
    });
    return { connection, channel, pending, asked: new Map() };
  }
}
