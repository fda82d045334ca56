// Requests to the program, at addresses relative to the page's own, which contains the token.

/** Make a call with `body` as JSON, or with a file as it is; throws an Error with the program's message. */
export async function call(name, body = {}) {
  const sent = body instanceof Blob ? body : JSON.stringify(body);
  const response = await fetch(name, { method: "POST", body: sent });
  if (!response.ok) throw new Error((await response.json()).error);
}

/**
 * Pass each new view to `show(state, picture)`; picture is a Blob, or null if the frame is the same.
 *
 * The next view is requested once the last one is shown, so that nothing queues up: a slow page misses frames.
 */
export async function watch(show, lost) {
  for (let after = -1, have = -1; ; ) {
    try {
      const response = await fetch(`view?after=${after}&have=${have}`);
      if (!response.ok) throw new Error((await response.json()).error);
      if (response.status === 204) continue;
      const bytes = new Uint8Array(await response.arrayBuffer());
      const end = bytes.indexOf(10);
      const state = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
      const picture = bytes.subarray(end + 1);
      await show(state, picture.length ? new Blob([picture], { type: "image/jpeg" }) : null);
      [after, have] = [state.version, state.serial];
    } catch (error) {
      lost(error);
      [after, have] = [-1, -1];
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}
