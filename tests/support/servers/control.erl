%% Evaluates expressions in the broker, for the test process that started it: a frame with
%% the text comes in, "ok " or "error " and the printed value goes out. rabbitmqctl would
%% start a virtual machine for each, which takes a second.
%%
%% On a Unix socket in the server's own folder, which only its user may enter.

Evaluate = fun(Text) ->
    try
        {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text)),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Expressions, erl_eval:new_bindings()),
        io_lib:format("ok ~0tp", [Value])
    catch
        Class:Reason -> io_lib:format("error ~0tp:~0tp", [Class, Reason])
    end
end,

Serve = fun Again(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Text} ->
            gen_tcp:send(Socket, unicode:characters_to_binary(Evaluate(Text))),
            Again(Socket);
        {error, _} ->
            gen_tcp:close(Socket)
    end
end,

Accept = fun Again(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Server = spawn(fun() -> receive go -> Serve(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Server),
    Server ! go,
    Again(Listener)
end,

spawn(fun() ->
    file:delete("control"),
    Options = [{ifaddr, {local, "control"}}, binary, {packet, 4}, {active, false}],
    {ok, Listener} = gen_tcp:listen(0, Options),
    Accept(Listener)
end).
