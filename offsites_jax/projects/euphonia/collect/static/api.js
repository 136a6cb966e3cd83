// Requests to the server. The token comes with the link, behind its #, where no log and no other site sees it.

export class ServerError extends Error {
  constructor(status, answer) {
    super(answer.error ?? "The server gave no reason.");
    this.status = status;
    this.answer = answer;
  }
}

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";

async function request(method, path, { json, bytes } = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (bytes !== undefined) headers["Content-Type"] = "application/octet-stream";
  const body = json !== undefined ? JSON.stringify(json) : bytes;
  const response = await fetch(path, { method, headers, body });
  if (response.ok) return response;
  throw new ServerError(response.status, await response.json().catch(() => ({})));
}

const object = async (...request_) => (await request(...request_)).json();

export const session = () => object("GET", "/api/session");
export const agree = (form) => object("POST", "/api/consent", { json: { id: form.id, version: form.version } });
export const revoke = () => object("DELETE", "/api/consent");
export const skip = (promptId) => object("POST", "/api/skips", { json: { prompt_id: promptId } });
export const announce = (ticket) => object("POST", "/api/uploads", { json: ticket });
export const send = (id, offset, bytes) => object("PUT", `/api/uploads/${id}?offset=${offset}`, { bytes });
export const picture = async (name) => (await request("GET", `/api/pictures/${name}`)).blob();
export const sound = async (name) => (await request("GET", `/api/recordings/${name}`)).blob();
export const deleteRecording = (name) => object("DELETE", `/api/recordings/${name}`);
export const deleteEverything = () => object("DELETE", "/api/speaker");
