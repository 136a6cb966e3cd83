// Pictures to talk about: fetched with the token, which an address in an <img> could not carry, and only once.

import * as api from "/static/api.js";

const addresses = new Map();

export async function address(name) {
  if (!addresses.has(name)) addresses.set(name, URL.createObjectURL(await api.picture(name)));
  return addresses.get(name);
}
