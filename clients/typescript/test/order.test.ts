// An order's life through the client, against a live `amends dev --auth`. `AMENDS` names the program.

import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { type Amends, type OrderRequest, ProblemError, answered, createAmends, whileIn } from "../src/index.js";

const AMENDS = process.env["AMENDS"] ?? "../../target/debug/amends";
const UNDER_WAY = ["PENDING", "CONFIRMED", "PAID"] as const;

let dev: ChildProcess;
let data: string;
let shop: Amends;
let operator: Amends;

function token(role: string, subject: string): string {
  const options = ["token", "--role", role, "--subject", subject, "--data", data];
  return execFileSync(AMENDS, options, { encoding: "utf8" }).trim();
}

function order(method: string, quantity: number): OrderRequest {
  return {
    customerId: "c-3003",
    currency: "EUR",
    lines: [{ productId: "tea-pot", quantity }],
    payment: { method },
    shippingAddress: { name: "Test Customer", line1: "1 Long Street", city: "Vienna", postalCode: "1010", country: "AT" },
    contact: { email: "c-3003@shop.example" },
  };
}

before(async () => {
  data = mkdtempSync(join(tmpdir(), "amends-client-"));
  dev = spawn(AMENDS, ["dev", "--auth", "--listen", "127.0.0.1:0", "--log", "warn", "--data", data], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const baseUrl = await new Promise<string>((resolve, reject) => {
    dev.once("exit", (code) => reject(new Error(`amends dev has ended with ${code}`)));
    createInterface({ input: dev.stdout! }).on("line", (line) => {
      if (line.startsWith("ready ")) resolve(line.slice("ready ".length));
    });
  });
  shop = createAmends({ baseUrl, token: token("storefront", "shop") });
  operator = createAmends({ baseUrl, token: async () => token("operator", "olga") });
  const path = { productId: "tea-pot" };
  const priced = { name: "Tea pot", unitPrice: 2900, currency: "EUR" } as const;
  answered(await operator.PUT("/api/products/{productId}", { params: { path }, body: priced }));
  answered(await operator.PUT("/api/inventory/{productId}/stock", { params: { path }, body: { onHand: 10 } }));
});

after(async () => {
  const ended = new Promise((resolve) => dev.once("exit", resolve));
  dev.kill("SIGINT");
  await ended;
  rmSync(data, { recursive: true, force: true });
});

test("an order is placed once, fulfilled, and one of its pieces comes back", async () => {
  const request = { params: { header: { "Idempotency-Key": "basket-1" } }, body: order("card_approved", 2) };
  const placed = answered(await shop.POST("/api/orders", request));
  const again = answered(await shop.POST("/api/orders", request));
  assert.deepEqual(again, placed);
  assert.equal(placed.status, "PENDING");
  assert.equal(placed.total, 5800);

  const { id } = placed;
  const fulfilled = await whileIn(shop, id, UNDER_WAY);
  assert.equal(fulfilled.status, "FULFILLED");
  assert.equal(fulfilled.shipments.length, 1);

  const path = { id };
  const returning = answered(
    await shop.POST("/api/orders/{id}/return", {
      params: { path },
      body: { reason: "the lid is chipped", lines: [{ lineId: "1", quantity: 1 }] },
    }),
  );
  assert.equal(returning.status, "RETURN_REQUESTED");
  answered(await operator.PUT("/api/orders/{id}/return/approve", { params: { path } }));
  const returned = await whileIn(shop, id, ["RETURN_REQUESTED"]);
  assert.equal(returned.status, "PARTIALLY_RETURNED");
  assert.equal(returned.refunded, 2900);
  assert.equal(returned.lines[0]?.returned, 1);

  const list = answered(await shop.GET("/api/orders", { params: { query: { customerId: "c-3003", limit: 10 } } }));
  assert.deepEqual(list.items.map((item) => item.id), [id]);
});

/** Cancels an order as it is seen while its card is charged; `undefined` if this machine was slower than the card. */
async function cancelledWhileCharged() {
  const { id } = answered(await shop.POST("/api/orders", { body: order("card_slow", 1) }));
  const path = { id };
  const query = { wait: "20s", status: "PENDING" } as const;
  const seen = await shop.GET("/api/orders/{id}", { params: { path, query } });
  const params = { path, header: { "If-Match": seen.response.headers.get("etag") ?? "" } };
  if (answered(seen).status !== "CONFIRMED") return undefined;
  const cancelling = await shop.DELETE("/api/orders/{id}", { params });
  if (cancelling.response.status === 412) return undefined;
  assert.equal(answered(cancelling).headingFor, "CANCELLED");
  return { id, path, params };
}

test("an order is cancelled only as it was seen", async () => {
  let cancelled: Awaited<ReturnType<typeof cancelledWhileCharged>>;
  for (let attempt = 0; cancelled === undefined && attempt < 5; attempt++) cancelled = await cancelledWhileCharged();
  assert(cancelled);
  const { id, path, params } = cancelled;
  await assert.rejects(
    async () => answered(await shop.DELETE("/api/orders/{id}", { params })),
    (error) => error instanceof ProblemError && error.status === 412 && error.slug === "precondition-failed",
  );
  const ended = await whileIn(shop, id, ["CONFIRMED", "CANCELLING"]);
  assert.equal(ended.status, "CANCELLED");
});

test("a refusal says where the fault is", async () => {
  const body = { ...order("card_approved", 1), lines: [] };
  await assert.rejects(
    async () => answered(await shop.POST("/api/orders", { body })),
    (error) =>
      error instanceof ProblemError && error.status === 400 && error.problem.errors?.[0]?.pointer === "/lines",
  );
});
