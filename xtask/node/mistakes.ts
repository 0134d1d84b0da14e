/** What the compiler must refuse already; it fails where one of these is accepted. */
import { Notification, Publisher, broadcast, toChannel, toUser } from "./notify.js";

const body = { command: "notice" };
const maybe: { id?: number } = {};

// @ts-expect-error text is no user id
toUser("42", body);
// @ts-expect-error an id that may be missing would reach everyone
toUser(maybe.id, body);
// @ts-expect-error nor is null
toUser(null, body);
// @ts-expect-error nor a boolean
toUser(true, body);
// @ts-expect-error a body is an object
toUser(42, "text");
// @ts-expect-error a user without a body
toUser(42);
// @ts-expect-error a broadcast takes no user
broadcast(body, { userId: 42 });
// @ts-expect-error a channel has a name
toChannel(undefined, body);
// @ts-expect-error only a checked notification is published
await new Publisher("amqp://localhost").publish({ headers: { "user-id": 42 }, body });
// @ts-expect-error and none is made by hand
new Notification({}, body);
