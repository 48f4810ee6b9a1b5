// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Packing} from "./Packing.sol";
import {Test} from "./Test.sol";
import {MeasurementPolicy} from "../MeasurementPolicy.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {DataStore} from "../attestation/DataStore.sol";
import {Der} from "../attestation/Der.sol";
import {PackedText} from "../attestation/PackedText.sol";
import {Tcb} from "../attestation/Tcb.sol";
import {Text} from "../attestation/Text.sol";
import {VerifierSet} from "../attestation/VerifierSet.sol";

/// @dev Gives the libraries' calldata functions an outside.
contract AttestationHarness {
    function take(bytes calldata der, uint256 tag) external pure returns (bytes memory content, bytes memory rest) {
        return Der.take(der, tag);
    }

    function number(bytes calldata der, uint256 size) external pure returns (uint256 value, bytes memory rest) {
        return Der.number(der, size);
    }

    function time(bytes calldata der) external pure returns (uint256 unix, bytes memory rest) {
        return Der.time(der);
    }

    function textNumber(bytes memory text) external pure returns (uint256 value, uint256 read) {
        (uint256 start,) = Text.bounds(text);
        (value, read) = Text.number(start);
        read -= start;
    }

    function textHexadecimal(bytes memory text, uint256 size) external pure returns (uint256 value) {
        (uint256 start,) = Text.bounds(text);
        (value,) = Text.hexadecimal(start, size);
    }

    function textTime(bytes memory text) external pure returns (uint256 unix) {
        (uint256 start,) = Text.bounds(text);
        (unix,) = Text.time(start);
    }

    function find(bytes memory text, bytes1 character) external pure returns (uint256) {
        (uint256 start, uint256 end) = Text.bounds(text);
        return Text.find(start, end, uint8(character)) - start;
    }

    function digits(bytes memory text, bytes32 form, bytes32 gaps) external pure returns (bool known, uint256 values) {
        (uint256 start, uint256 end) = Text.bounds(text);
        (known, values) = Text.digits(start, end - start, form, gaps);
        // The text itself is left as it was.
        require(keccak256(text) == keccak256(msg.data[0x84:0x84 + text.length]), "changed");
    }

    function platformStatus(bytes calldata table, bytes16 components, uint256 pceSvn, bytes16 teeTcbSvn)
        external
        pure
        returns (uint256)
    {
        return Tcb.platformStatus(table, components, pceSvn, teeTcbSvn);
    }

    function moduleStatus(bytes calldata table, bytes16 teeTcbSvn) external pure returns (uint256) {
        return Tcb.moduleStatus(table, teeTcbSvn);
    }

    /// @dev What follows in memory must not be what was unpacked, nor stand before it.
    function unpack(bytes calldata packed) external pure returns (bytes memory text, bytes memory after_) {
        text = PackedText.unpack(packed);
        after_ = new bytes(64);
    }

    function store(bytes calldata data) external returns (bytes memory) {
        return DataStore.read(DataStore.write(data));
    }
}

contract AttestationReadersTest is Test {
    AttestationHarness private harness = new AttestationHarness();

    /// @dev Fails unless the call reverts.
    function refused(bytes memory call) private view {
        (bool ok,) = address(harness).staticcall(call);
        require(!ok, "was taken");
    }

    function testFuzz_der_readsWhatWasWritten(bytes calldata content, bytes calldata rest) public view {
        bytes memory size = content.length < 0x80
            ? abi.encodePacked(uint8(content.length))
            : content.length < 0x100
                ? abi.encodePacked(bytes1(0x81), uint8(content.length))
                : abi.encodePacked(bytes1(0x82), uint16(content.length));
        (bytes memory got, bytes memory left) = harness.take(abi.encodePacked(bytes1(0x30), size, content, rest), 0x30);
        assertEq(keccak256(got), keccak256(content));
        assertEq(keccak256(left), keccak256(rest));
    }

    function testFuzz_der_neverLeavesItsBounds(bytes calldata der, uint8 tag) public view {
        try harness.take(der, tag) returns (bytes memory content, bytes memory rest) {
            require(content.length + rest.length + 2 <= der.length, "more than there is");
            assertEq(uint8(der[0]), tag);
            assertEq(keccak256(rest), keccak256(der[der.length - rest.length:]));
        } catch {}
    }

    function test_der_refusesLengthsNotInTheirShortestForm() public view {
        bytes memory long = new bytes(0x7f);
        refused(abi.encodeCall(harness.take, (abi.encodePacked(hex"30817f", long), 0x30)));
        refused(abi.encodeCall(harness.take, (abi.encodePacked(hex"3082007f", long), 0x30)));
        refused(abi.encodeCall(harness.take, (hex"308000", 0x30)));
        refused(abi.encodeCall(harness.take, (hex"3083000001ff", 0x30)));
    }

    function test_der_refusesElementsThatRunPastTheEnd() public view {
        refused(abi.encodeCall(harness.take, ("", 0x30)));
        refused(abi.encodeCall(harness.take, (hex"30", 0x30)));
        refused(abi.encodeCall(harness.take, (hex"3001", 0x30)));
        refused(abi.encodeCall(harness.take, (hex"3181", 0x31)));
    }

    function testFuzz_der_readsNumbersInTheirOnlyForm(uint256 value) public view {
        value &= (1 << 160) - 1;
        uint256 size = 1;
        while (value >> (8 * size) != 0) size++;
        bytes memory shortest;
        for (uint256 i = size; i > 0; i--) shortest = abi.encodePacked(shortest, uint8(value >> (8 * i - 8)));
        if (uint8(shortest[0]) >= 0x80) {
            refused(abi.encodeCall(harness.number, (abi.encodePacked(bytes1(0x02), uint8(size), shortest), 20)));
            shortest = abi.encodePacked(bytes1(0), shortest);
        }
        (uint256 got,) = harness.number(abi.encodePacked(bytes1(0x02), uint8(shortest.length), shortest), 20);
        assertEq(got, value);
        bytes memory padded = abi.encodePacked(bytes1(0), shortest);
        refused(abi.encodeCall(harness.number, (abi.encodePacked(bytes1(0x02), uint8(padded.length), padded), 20)));
    }

    function test_der_refusesEmptyNumbers() public view {
        refused(abi.encodeCall(harness.number, (hex"0200", 20)));
    }

    function test_time_readsBothForms() public view {
        (uint256 unix,) = harness.time(abi.encodePacked(hex"170d", "260216225809Z"));
        assertEq(unix, 1771282689);
        (unix,) = harness.time(abi.encodePacked(hex"180f", "20491231235959Z"));
        assertEq(unix, 2524607999);
        (unix,) = harness.time(abi.encodePacked(hex"170d", "700101000000Z"));
        assertEq(unix, 0);
        assertEq(harness.textTime("2024-02-29T12:00:00Z"), 1709208000);
        assertEq(harness.textTime("2100-03-01T00:00:00Z"), 4107542400);
    }

    function test_time_refusesWhatIsNoTime() public view {
        refused(abi.encodeCall(harness.time, (abi.encodePacked(hex"170d", "261316225809Z"))));
        refused(abi.encodeCall(harness.time, (abi.encodePacked(hex"170d", "260016225809Z"))));
        refused(abi.encodeCall(harness.time, (abi.encodePacked(hex"170d", "260232225809Z"))));
        refused(abi.encodeCall(harness.time, (abi.encodePacked(hex"170d", "260216245809Z"))));
        refused(abi.encodeCall(harness.time, (abi.encodePacked(hex"170d", "2602162258090"))));
        refused(abi.encodeCall(harness.time, (abi.encodePacked(hex"170d", "26021622580 Z"))));
        refused(abi.encodeCall(harness.time, (abi.encodePacked(hex"170b", "2602162258Z"))));
        refused(abi.encodeCall(harness.textTime, ("2024-02-29 12:00:00Z")));
        refused(abi.encodeCall(harness.textTime, ("2024-02-29T12:00:00+")));
        refused(abi.encodeCall(harness.textTime, ("1969-12-31T23:59:59Z")));
    }

    function test_text_readsNumbersWithoutLeadingZeros() public view {
        (uint256 value, uint256 read) = harness.textNumber("0,");
        assertEq(value, 0);
        assertEq(read, 1);
        (value, read) = harness.textNumber("65535}");
        assertEq(value, 65535);
        assertEq(read, 5);
        refused(abi.encodeCall(harness.textNumber, ("00")));
        refused(abi.encodeCall(harness.textNumber, ("01,")));
        refused(abi.encodeCall(harness.textNumber, ("65536")));
        refused(abi.encodeCall(harness.textNumber, ("-1")));
        refused(abi.encodeCall(harness.textNumber, ("")));
    }

    function test_text_readsHexadecimalOfEitherCase() public view {
        assertEq(harness.textHexadecimal("00aFfA90", 4), 0x00affa90);
        refused(abi.encodeCall(harness.textHexadecimal, ("0g", 1)));
        refused(abi.encodeCall(harness.textHexadecimal, ("0:", 1)));
        refused(abi.encodeCall(harness.textHexadecimal, ("0@", 1)));
        refused(abi.encodeCall(harness.textHexadecimal, ("0/", 1)));
    }

    function testFuzz_text_findsTheFirst(bytes calldata text, bytes1 character) public view {
        uint256 first = 0;
        while (first < text.length && text[first] != character) first++;
        try harness.find(text, character) returns (uint256 found) {
            assertEq(found, first);
            require(found < text.length, "found past the end");
        } catch {
            assertEq(first, text.length);
        }
    }

    /// @dev The search goes by words: it ends where a text of whole words ends.
    function test_text_findsNothingAtItsEnd() public view {
        refused(abi.encodeCall(harness.find, ("", "a")));
        refused(abi.encodeCall(harness.find, ("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "a")));
        // Zeros follow a text in memory.
        refused(abi.encodeCall(harness.find, ("bbb", 0)));
        assertEq(harness.find("bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbba", "a"), 31);
    }

    /// @dev Three digits in a text of eight bytes: any byte in their places, and any byte changed beside them.
    function testFuzz_text_readsDigitsOfAKnownTextOnly(bytes3 given, uint8 place, bytes1 other) public view {
        bytes32 form = keccak256("{0ab0,0}");
        bytes32 gaps = hex"010302";
        bytes memory text = abi.encodePacked("{", given[0], "ab", given[1], ",", given[2], "}");
        bool all = true;
        for (uint256 i = 0; i < 3; i++) all = all && given[i] >= "0" && given[i] <= "9";
        (bool known, uint256 values) = harness.digits(text, form, gaps);
        assertEq(known ? 1 : 0, all ? 1 : 0);
        if (all) assertEq(values, uint24(given) & 0x0f0f0f);
        uint256[5] memory fixed_ = [uint256(0), 2, 3, 5, 7];
        uint256 at = fixed_[place % 5];
        text = "{7ab8,9}";
        if (text[at] == other) return;
        text[at] = other;
        (known,) = harness.digits(text, form, gaps);
        require(!known, "was taken");
    }

    function test_text_readsEveryDigit() public view {
        bytes32 form = keccak256("{0ab0,0}");
        for (uint256 i = 0; i < 1_000; i++) {
            bytes1[3] memory d = [bytes1(uint8(48 + i / 100)), bytes1(uint8(48 + i / 10 % 10)), bytes1(uint8(48 + i % 10))];
            bytes memory text = abi.encodePacked("{", d[0], "ab", d[1], ",", d[2], "}");
            (bool known, uint256 values) = harness.digits(text, form, hex"010302");
            require(known, "was refused");
            assertEq(values, (i / 100) << 16 | (i / 10 % 10) << 8 | i % 10);
        }
    }

    function testFuzz_store_givesBack(bytes calldata data) public {
        assertEq(keccak256(harness.store(data)), keccak256(data));
    }
}

contract PackedTextTest is Test {
    uint256 private constant WORDS = 2688;

    AttestationHarness private harness = new AttestationHarness();

    function refused(bytes memory packed) private view {
        try harness.unpack(packed) {
            revert("was taken");
        } catch (bytes memory reason) {
            assertEq(bytes32(reason), bytes32(PackedText.PackedTextMalformed.selector));
        }
    }

    function unpacked(bytes memory packed) private view returns (bytes memory text) {
        bytes memory after_;
        (text, after_) = harness.unpack(packed);
        assertEq(keccak256(after_), keccak256(new bytes(64)));
    }

    /// @dev Draws sound steps, and writes the text they mean byte by byte.
    function testFuzz_unpack_meansWhatTheStepsSay(bytes[5] memory literals, uint16[5] memory sources, uint16[5] memory sizes)
        public
        view
    {
        bytes memory all = unpacked(Packing.step("", 0, WORDS > 2047 ? 2047 : WORDS));
        all = abi.encodePacked(all, unpacked(Packing.step("", 2047, WORDS - 2047)));
        assertEq(all.length, WORDS);
        bytes memory packed;
        for (uint256 i = 0; i < 5; i++) {
            bytes memory literal = literals[i];
            if (literal.length > 31) {
                assembly {
                    mstore(literal, 31)
                }
            }
            all = abi.encodePacked(all, literal);
            uint256 size = sizes[i] % 2048;
            uint256 source = sources[i] % (all.length - size + 1);
            packed = abi.encodePacked(packed, Packing.step(literal, source, size));
            bytes memory run = new bytes(size);
            for (uint256 j = 0; j < size; j++) run[j] = all[source + j];
            all = abi.encodePacked(all, run);
        }
        bytes memory text = unpacked(packed);
        assertEq(text.length, all.length - WORDS);
        for (uint256 i = 0; i < text.length; i++) require(text[i] == all[WORDS + i], "another byte");
    }

    function testFuzz_unpack_anyBytesLiterally(bytes calldata text) public view {
        assertEq(keccak256(unpacked(Packing.literally(text))), keccak256(text));
    }

    /// @dev Bytes nobody packed are either refused or give a text no longer than their steps say, at a price their length bounds.
    function testFuzz_unpack_boundsAnything(bytes calldata packed) public view {
        uint256 before = gasleft();
        try harness.unpack(packed) returns (bytes memory text, bytes memory) {
            require(text.length <= (packed.length / 4) * (31 + 2047), "longer than it can be");
        } catch (bytes memory reason) {
            assertEq(bytes32(reason), bytes32(PackedText.PackedTextMalformed.selector));
        }
        require(before - gasleft() < 30_000 + 1_000 * packed.length, "dear");
    }

    function test_unpack_nothing() public view {
        assertEq(unpacked("").length, 0);
    }

    /// @dev Cut anywhere but between two steps, a packed text is refused, whatever follows it in the call.
    function test_unpack_refusesWhatIsCutShort() public view {
        bytes memory whole = abi.encodePacked(Packing.step("{ }", 0, 40), Packing.step("", WORDS, 43), Packing.step("end", 0, 0));
        assertEq(unpacked(whole).length, 3 + 40 + 43 + 3);
        for (uint256 size = 1; size < whole.length; size++) {
            if (size == 7 || size == 11) continue;
            bytes memory cut = new bytes(size);
            for (uint256 i = 0; i < size; i++) cut[i] = whole[i];
            refused(cut);
        }
    }

    function test_unpack_refusesTrailingBytes() public view {
        for (uint256 extra = 1; extra < 4; extra++) {
            refused(abi.encodePacked(Packing.step("{ }", 0, 40), new bytes(extra)));
        }
    }

    /// @dev A run lies whole before what it writes: not one byte of it may be its own.
    function test_unpack_refusesARunThatIsNotWritten() public view {
        assertEq(unpacked(Packing.step("ab", WORDS, 2)).length, 4);
        refused(Packing.step("ab", WORDS, 3));
        refused(Packing.step("ab", WORDS + 1, 2));
        refused(Packing.step("ab", WORDS + 2, 1));
        refused(Packing.step("", WORDS, 1));
        refused(Packing.step("", 0xffff, 1));
        refused(Packing.step("", 0xffff, 0x7ff));
        // A sound step after it does not make up for it.
        refused(abi.encodePacked(Packing.step("ab", WORDS + 1, 2), Packing.step("cd", 0, 2)));
        assertEq(keccak256(unpacked(Packing.step("ab", WORDS + 2, 0))), keccak256("ab"));
    }
}

contract TcbMatchingTest is Test {
    AttestationHarness private harness = new AttestationHarness();

    /// @dev Compares byte by byte, as the specification words it.
    function reaches(bytes16 have, bytes16 need, uint256 from) private pure returns (bool) {
        for (uint256 i = from; i < 16; i++) if (uint8(have[i]) < uint8(need[i])) return false;
        return true;
    }

    /// @dev Draws components near each other, so that levels both match and miss.
    function near(bytes16 seed) private pure returns (bytes16 all) {
        uint256 made;
        for (uint256 i = 0; i < 16; i++) made = (made << 8) | (uint8(seed[i]) > 240 ? uint8(seed[i]) : uint8(seed[i]) % 3);
        return bytes16(uint128(made));
    }

    /// @dev Draws what a level asks for: what there is or one less, and in every second level one more in one place.
    function asked(bytes16 have, bytes16 seed) private pure returns (bytes16) {
        uint256 made;
        for (uint256 i = 0; i < 16; i++) {
            uint256 value = uint8(have[i]);
            bool more = uint8(seed[15]) % 2 > 0 && uint8(seed[15]) >> 4 == i;
            if (more && value < 255) value++;
            else if (value > 0) value -= uint8(seed[i]) >> 7;
            made = (made << 8) | value;
        }
        return bytes16(uint128(made));
    }

    function testFuzz_levels_firstReachedWins(bytes16[6] memory seeds, uint8[3] memory pceSvns, uint8 major) public view {
        bytes16 components = near(seeds[0]);
        bytes16 svn = near(seeds[1]);
        svn = bytes16(uint128(svn) & ~(uint128(0xff) << 112) | uint128(major % 2) << 112);
        bytes memory table = hex"0002";
        uint256 expected = 7;
        for (uint256 i = 2; i > 0; i--) {
            bytes16 sgx = asked(components, seeds[2 * i]);
            bytes16 tdx = asked(svn, seeds[2 * i + 1]);
            uint256 pceSvn = pceSvns[i] % 3;
            if (
                reaches(components, sgx, 0) && reaches(svn, tdx, major % 2 > 0 ? 2 : 0) && pceSvns[0] % 3 >= pceSvn
                    && expected == 7
            ) expected = i;
            table = abi.encodePacked(table, sgx, tdx, uint16(pceSvn), uint8(i));
        }
        assertEq(harness.platformStatus(table, components, pceSvns[0] % 3, svn), expected);
    }

    /// @dev From version 1 on a module has its own levels, so its minor version is not compared here; before, it is.
    function test_levels_leaveOutWhatTheModulesIdentityJudges() public view {
        bytes memory table = abi.encodePacked(hex"0001", bytes16(0), bytes16(hex"050102"), uint16(0), uint8(0));
        assertEq(harness.platformStatus(table, bytes16(0), 0, bytes16(hex"040102")), 0);
        assertEq(harness.platformStatus(table, bytes16(0), 0, bytes16(hex"050101")), 7);
        table = abi.encodePacked(hex"0001", bytes16(0), bytes16(hex"050002"), uint16(0), uint8(0));
        assertEq(harness.platformStatus(table, bytes16(0), 0, bytes16(hex"040002")), 7);
        assertEq(harness.platformStatus(table, bytes16(0), 0, bytes16(hex"050002")), 0);
    }

    function test_levels_noneIsNotSupported() public view {
        assertEq(harness.platformStatus(hex"0000", bytes16(0), 0, bytes16(0)), 7);
    }

    function test_modules_areFoundByTheirMajorVersion() public view {
        // TDX_03: from 3 up to date; TDX_01: from 6 up to date, from 2 out of date. One level of platforms follows.
        bytes memory table = abi.encodePacked(hex"02", hex"03010300", hex"010206000204", hex"00");
        assertEq(harness.moduleStatus(table, bytes16(hex"0303")), 0);
        assertEq(harness.moduleStatus(table, bytes16(hex"0601")), 0);
        assertEq(harness.moduleStatus(table, bytes16(hex"0501")), 4);
        assertEq(harness.moduleStatus(table, bytes16(hex"0500")), 255);
        (bool known,) = address(harness).staticcall(abi.encodeCall(harness.moduleStatus, (table, bytes16(hex"0502"))));
        (bool level,) = address(harness).staticcall(abi.encodeCall(harness.moduleStatus, (table, bytes16(hex"0101"))));
        require(!known && !level, "was taken");
    }

    /// @dev Every pair, against the rules in words: revoked wins, then not supported, and out of date spreads.
    function test_converge_everyPair() public pure {
        for (uint256 a = 0; a < 8; a++) {
            assertEq(Tcb.converge(a, 255), a);
            for (uint256 b = 0; b < 8; b++) {
                uint256 expected = a;
                if (b == 4) expected = a <= 1 ? 4 : a <= 3 ? 5 : a;
                if (a == 7 || b == 7) expected = 7;
                if (a == 6 || b == 6) expected = 6;
                assertEq(Tcb.converge(a, b), expected);
            }
        }
    }
}

contract Policy is MeasurementPolicy {
    constructor(address owner) MeasurementPolicy(owner) {}

    function approved(bytes32 workload) external view returns (bool byName, bool byPosition) {
        Workload memory known = workloads[workload];
        return (known.approved, isApproved(known.index, standing.approvals));
    }
}

contract MeasurementPolicyTest is Test {
    Policy private policy = new Policy(address(this));

    /// @dev More workloads than one slot has room for; what is asked by name and by position stays the same.
    function test_policy_holdsMoreWorkloadsThanOneSlot() public {
        for (uint256 i = 1; i <= 520; i++) policy.approve(bytes32(i));
        for (uint256 i = 3; i <= 520; i += 7) policy.revoke(bytes32(i));
        policy.approve(bytes32(uint256(10)));
        for (uint256 i = 1; i <= 520; i++) {
            (bool byName, bool byPosition) = policy.approved(bytes32(i));
            bool expected = i == 10 || i < 3 || (i - 3) % 7 != 0;
            require(byName == expected && byPosition == expected, "differs");
            (uint16 index,) = policy.workloads(bytes32(i));
            assertEq(index, i);
        }
        (bool unknown, bool first) = policy.approved(bytes32(uint256(521)));
        require(!unknown && !first, "unknown workload is approved");
    }

    function testFuzz_policy_strangersChangeNothing(address stranger) public {
        if (stranger == address(this)) return;
        bytes[4] memory calls = [
            abi.encodeCall(policy.approve, (bytes32(uint256(1)))),
            abi.encodeCall(policy.revoke, (bytes32(uint256(1)))),
            abi.encodeCall(policy.kill, ()),
            abi.encodeCall(policy.setTcbRules, (1, 1, 1, false))
        ];
        for (uint256 i = 0; i < calls.length; i++) {
            vm.prank(stranger);
            (bool ok,) = address(policy).call(calls[i]);
            require(!ok, "was taken");
        }
    }
}

contract AttestedVerdictTest is Test {
    function read(string memory name) private view returns (string memory) {
        return vm.readFile(string.concat("protocol/vectors/", name, ".json"));
    }

    function number(string memory json, string memory key) private pure returns (uint256) {
        return vm.parseUint(vm.parseJsonString(json, key));
    }

    function test_verdict_matchesTheSharedVector() public {
        string memory json = read("attestedVerdict");
        vm.chainId(number(read("domain"), ".chainId"));
        address[] memory verifiers = new address[](1);
        verifiers[0] = address(1);
        VerifierSet set =
            new VerifierSet(address(this), RunnerRegistry(vm.parseJsonAddress(json, ".registry")), verifiers, 1);
        VerifierSet.Verdict memory verdict = VerifierSet.Verdict({
            evidenceDigest: vm.parseJsonBytes32(json, ".evidenceDigest"),
            signer: vm.parseJsonAddress(json, ".signer"),
            provider: vm.parseJsonAddress(json, ".provider"),
            workload: vm.parseJsonBytes32(json, ".workload"),
            tee: uint8(number(json, ".tee")),
            tcbTier: uint8(number(json, ".tcbTier")),
            validUntil: uint64(number(json, ".validUntil")),
            policyEpoch: uint16(number(json, ".policyEpoch"))
        });
        assertEq(set.digestOf(verdict), vm.parseJsonBytes32(json, ".digest"));
    }
}
