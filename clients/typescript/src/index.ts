// The order API of Amends. Paths, bodies and answers are typed by `schema.ts`, which is generated from `api/openapi.json`;
// this file adds the token, problems as errors, and waiting for a status.

import createClient, { type Client, type FetchResponse } from "openapi-fetch";
import type { components, paths } from "./schema.js";

export type { components, paths } from "./schema.js";

type Schemas = components["schemas"];
export type Order = Schemas["Order"];
export type OrderRequest = Schemas["OrderRequest"];
export type OrderStatus = Schemas["OrderStatus"];
export type Problem = Schemas["Problem"];
export type Amends = Client<paths, "application/json">;

export interface Options {
  /** Where the api is: `http://127.0.0.1:8080`. */
  baseUrl: string;
  /** The token, or a function that returns one, which is called before each request. */
  token?: string | (() => string | Promise<string>);
  /** In place of the global `fetch`. */
  fetch?: (request: Request) => Promise<Response>;
}

/** A client of the api. Each method takes a path as the document writes it: `amends.GET("/api/orders/{id}", …)`. */
export function createAmends({ baseUrl, token, fetch }: Options): Amends {
  const client = createClient<paths, "application/json">(fetch === undefined ? { baseUrl } : { baseUrl, fetch });
  client.use({
    async onRequest({ request }) {
      const bearer = typeof token === "function" ? await token() : token;
      if (bearer !== undefined) request.headers.set("authorization", `Bearer ${bearer}`);
      return request;
    },
  });
  return client;
}

/** A refusal: the problem details (RFC 9457) of an answer. */
export class ProblemError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
  ) {
    super(`${problem.title}: ${problem.detail}`);
    this.name = "ProblemError";
  }

  /** The last part of the problem's type: `not-found`. */
  get slug(): string {
    return this.problem.type.replace(/^\/problems\//, "");
  }
}

/** Returns what was answered; throws a `ProblemError` for a refusal. */
export function answered<T extends Record<string | number, any>, O>(
  result: FetchResponse<T, O, "application/json">,
): NonNullable<FetchResponse<T, O, "application/json">["data"]> {
  const { data, error, response } = result;
  if (error !== undefined || data === undefined) throw new ProblemError(response.status, error as Problem);
  return data as NonNullable<typeof data>;
}

/** How long one request of `whileIn` waits. */
const PATIENCE = "20s";

/**
 * Waits until an order has another status than these, and returns it. The api answers as soon as the status changes. Without
 * a signal, it waits as long as it takes.
 */
export async function whileIn(
  amends: Amends,
  id: string,
  statuses: readonly OrderStatus[],
  signal?: AbortSignal,
): Promise<Order> {
  let order: Order = answered(await amends.GET("/api/orders/{id}", { params: { path: { id } } }));
  while (statuses.includes(order.status)) {
    signal?.throwIfAborted();
    const query = { wait: PATIENCE, status: order.status };
    const waiting = amends.GET("/api/orders/{id}", {
      params: { path: { id }, query },
      ...(signal === undefined ? {} : { signal }),
    });
    order = answered(await waiting);
  }
  return order;
}
